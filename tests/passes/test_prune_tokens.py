"""Dropping and fusing tokens in captured graphs, against the same done by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tersor.capture import load
from tersor.context import Context
from tersor.errors import UsageError
from tersor.export import save_onnx
from tersor.models_zoo import catalog
from tersor.rewrite_values import key
from tersor.spec import parse
from tests.passes.test_merge_tokens import assert_exports, program_of, reasons, reduced
from tests.tokens.models import Encoder, Padded

METHODS = ("class", "class-only", "received", "page-rank", "diverse")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(model: Encoder, x: torch.Tensor, count: int, rule: str) -> torch.Tensor:
    """The encoder with tokens dropped behind the attention of its first block."""
    assert model.special is not None
    x = torch.cat([model.special.expand(len(x), -1, -1), model.enter(x)], dim=1)
    first, *rest = model.blocks
    inner = first.norm1(x)  # type: ignore[operator]
    batch, tokens, width = inner.shape
    qkv = first.qkv(inner).reshape(batch, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)  # type: ignore[operator]
    query, keys, _ = qkv.unbind(0)
    weights = (query @ keys.transpose(-1, -2) * (width // 2) ** -0.5).softmax(-1)
    score = weights[:, :, 0].mean(1) if rule == "class-only" else weights.mean((1, 2))
    score[:, 0] = torch.inf
    kept = score.topk(tokens - count).indices.sort().values
    x = x + first.attend(inner, None, None, False)  # type: ignore[operator]
    x = torch.stack([row[places] for row, places in zip(x, kept, strict=True)])
    x = x + first.mlp(first.norm2(x))  # type: ignore[operator]
    for block in rest:
        x = block(x)
    made: torch.Tensor = model.head(model.norm(x)[:, 0])
    return made


@pytest.mark.parametrize("rule", ["class-only", "received"])
def test_the_least_attended_tokens_go(rule: str, tmp_path: Path) -> None:
    model, x = Encoder().eval(), random(3, 12, 8)
    made, context = reduced(program_of(model, x), f"prune-tokens{{method={rule};layers=0;r=5}}")
    assert len(context.taken) == 1, reasons(context)
    with torch.no_grad():
        torch.testing.assert_close(made(x), by_hand(model, x, 5, rule), rtol=1e-4, atol=1e-4)
    assert_exports(made, tmp_path / "made.onnx", x)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("read", ["class", "all"])
def test_every_method_at_every_layer(method: str, read: str, tmp_path: Path) -> None:
    model, x = Encoder(read=read).eval(), random(2, 12, 8)
    made, context = reduced(program_of(model, x), f"prune-tokens{{method={method};r=3}}")
    assert len(context.taken) == 3, reasons(context)
    assert made(x).shape == model(x).shape
    assert_exports(made, tmp_path / "made.onnx", random(3, 12, 8, seed=4))


def test_dropping_follows_a_causal_mask(tmp_path: Path) -> None:
    model, x = Encoder(causal=True, read="class").eval(), random(2, 12, 8)
    made, context = reduced(program_of(model, x), "prune-tokens{method=received;r=3}")
    assert len(context.taken) == 3, reasons(context)
    with torch.no_grad():
        # Under a causal mask the first token sees only itself, whatever is dropped behind it.
        torch.testing.assert_close(made(x), model(x), rtol=1e-4, atol=1e-4)
    assert_exports(made, tmp_path / "made.onnx", x)


def test_padding_is_dropped_first(tmp_path: Path) -> None:
    model, x, mask = Padded().eval(), random(2, 12, 8), torch.ones(2, 12)
    mask[:, 7:] = 0
    made, context = reduced(program_of(model, x, mask), "prune-tokens{method=received;layers=0;r=5}", ((x, mask),))
    assert context.taken, reasons(context)
    with torch.no_grad():
        torch.testing.assert_close(made(x, mask), model(x, mask), rtol=1e-4, atol=1e-4)
    assert_exports(made, tmp_path / "made.onnx", x, mask)


def test_a_threshold_decides_how_many() -> None:
    model, x = Encoder().eval(), random(4, 12, 8)
    program = program_of(model, x)
    mild, _ = reduced(program, "prune-tokens{method=received;schedule=threshold;threshold=0.5}", ((x,),))
    harsh, _ = reduced(program, "prune-tokens{method=received;schedule=threshold;threshold=1.2}", ((x,),))

    def tokens(made: Any) -> list[int]:
        return [int(n.meta["val"].shape[-2]) for n in made.nodes if key(n) == "linear"]

    assert sum(tokens(harsh)) < sum(tokens(mild)) <= sum(tokens(program))


def test_trained_digits_survive() -> None:
    entry = catalog.load("zoo:digits-vit")
    program = load(entry.model, entry.inputs, entry.dynamic)
    calibration = tuple((batch[0],) for batch in list(entry.calibration)[:2])  # type: ignore[index]
    made, context = reduced(program, "canonicalize,prune-tokens{share=0.3}", calibration)
    assert len(context.taken) == 4
    assert entry.evaluator is not None and entry.evaluator(made) > 0.9


@pytest.mark.parametrize("rounded", ["quantize{anyway=true}", "quantize-dynamic{anyway=true}"])
def test_tokens_are_fewer_where_features_are_rounded(rounded: str, tmp_path: Path) -> None:
    model, x = Encoder().eval(), random(3, 12, 8)
    made, context = reduced(program_of(model, x), f"{rounded},prune-tokens{{method=received;layers=0;r=5}}")
    assert "5 tokens" in context.taken[-1].detail and "quantize_per_tensor" in str(made.graph), reasons(context)
    with torch.no_grad():
        torch.testing.assert_close(made(x), by_hand(model, x, 5, "received"), rtol=0.1, atol=0.1)
    save_onnx(made, tmp_path / "made.onnx")


def test_too_few_tokens() -> None:
    _, context = reduced(program_of(Encoder(), random(2, 12, 8)), "prune-tokens{r=12}")
    assert not context.taken
    assert "12 of 13 tokens cannot go at once: at most 11" in reasons(context)


@pytest.mark.parametrize(
    "text", ["prune-tokens{threshold=0}", "prune-tokens{method=random}", "prune-tokens{protect=-2}"]
)
def test_bad_options(text: str) -> None:
    with pytest.raises(UsageError, match="wanted"):
        parse(text)


def test_choices_are_passes() -> None:
    from tersor.passes.merge_tokens import MergeTokens
    from tersor.passes.prune_tokens import PruneTokens
    from tersor.target import detect

    program = program_of(Encoder(), random(2, 12, 8))
    for kind in (MergeTokens, PruneTokens):
        for choice in kind.choices(program, detect()):
            made = program.clone()
            context = Context()
            choice(made, context)
            assert context.taken
