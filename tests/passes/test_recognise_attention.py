"""Every spelling of attention becomes one operator with equal outputs, or is declined with its reason."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tersor.capture.sources import load
from tersor.capture.torch import capture_module
from tersor.context import Context
from tersor.program import Program
from tersor.refresh import refresh
from tersor.rewrite_values import arguments, key
from tersor.spec import parse
from tests.passes.attention_spellings import SPELLINGS, Spelled, Spelling, inputs_of
from tests.passes.harness import Compute, operators, reasons

PREPARED = "fold-constants,common-subexpressions,canonicalize"
PIPELINE = f"{PREPARED},recognise-attention,dead-code"
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def through(program: Program, spec: str = PIPELINE) -> Context:
    context = Context()
    for item in parse(spec):
        item(program, context)
    refresh(program)
    return context


class All(nn.Module):
    """Spellings side by side: one capture instead of sixty."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names

    def forward(self, inputs: dict[str, list[Tensor]]) -> dict[str, Tensor]:
        return {name: SPELLINGS[name].function(*inputs[name]) for name in self.names}


def check_together(names: list[str]) -> None:
    inputs, model = {name: list(inputs_of(SPELLINGS[name])) for name in names}, All(names).eval()
    program = capture_module(model, (inputs,))
    context = through(program)
    with torch.no_grad():
        got, wanted = program.run([tensor for given in inputs.values() for tensor in given]), model(inputs)
    for name, result in zip(names, got, strict=True):
        torch.testing.assert_close(result, wanted[name], rtol=1e-5, atol=1e-5, equal_nan=True)
    refused = [SPELLINGS[name] for name in names if SPELLINGS[name].refusal]
    assert operators(program)["scaled_dot_product_attention"] == len(names) - len(refused), reasons(context)
    assert operators(program)["softmax"] == len(refused)
    assert all(spelling.refusal in reasons(context) for spelling in refused)
    assert not through(program, "recognise-attention").taken


def test_a_third_of_the_spellings() -> None:
    check_together([*SPELLINGS][::3])


@pytest.mark.slow
def test_every_spelling() -> None:
    check_together([*SPELLINGS])


def refusal(spelling: Spelling, dtype: torch.dtype) -> str:
    return spelling.refusal or (spelling.refusal_half if dtype == torch.float16 else "")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", SPELLINGS)
def test_spelling(name: str, dtype: torch.dtype) -> None:
    spelling = SPELLINGS[name]
    inputs, model = inputs_of(spelling, dtype), Spelled(spelling).eval()
    program = refresh(capture_module(model, inputs))
    context = through(program)
    with torch.no_grad():
        (got,), wanted = program.run(inputs), model(*inputs)
    torch.testing.assert_close(got, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], equal_nan=True)
    assert operators(program)["scaled_dot_product_attention"] == (not refusal(spelling, dtype)), reasons(context)
    assert refusal(spelling, dtype) in reasons(context)


FROM_ONNX = [name for name, spelling in SPELLINGS.items() if not spelling.refusal]


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [True, False], ids=["torch.export", "TorchScript"])
@pytest.mark.parametrize("name", FROM_ONNX)
def test_spelling_from_onnx(name: str, dynamo: bool, tmp_path: Path) -> None:
    spelling, path = SPELLINGS[name], tmp_path / "model.onnx"
    inputs, model = inputs_of(spelling), Spelled(spelling).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(model, inputs, path, dynamo=dynamo, verbose=False)
        except torch.onnx.errors.UnsupportedOperatorError as error:
            pytest.skip(f"the exporter cannot write it: {error}")
    program = load(path)
    context = through(program)
    (got,), wanted = program.run(inputs), model(*inputs)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert operators(program)["scaled_dot_product_attention"] == 1, reasons(context)


def heads(x: Tensor) -> list[Tensor]:
    return [part.reshape(*x.shape[:2], 2, 4).transpose(1, 2) for part in x.split(8, -1)]


def by_buffer(x: Tensor, triangle: Tensor) -> Tensor:
    q, k, v = heads(x)
    scores = (q @ k.mT * 0.5).masked_fill(triangle[:, :, : x.shape[1], : x.shape[1]] == 0, -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(*x.shape[:2], -1)


def by_infinities(x: Tensor, triangle: Tensor) -> Tensor:
    q, k, v = heads(x)
    return (q @ k.mT * 0.5 + torch.full((x.shape[1],) * 2, -math.inf).triu(1)).softmax(-1) @ v


def by_positions(x: Tensor, triangle: Tensor) -> Tensor:
    q, k, v = heads(x)
    place = torch.arange(x.shape[1])
    return (q @ k.mT * 0.5).masked_fill(~(place[:, None] >= place[None]), -1e9).softmax(-1) @ v


@pytest.mark.parametrize(
    "function", [pytest.param(by_buffer, marks=pytest.mark.slow), by_infinities, by_positions]
)  # fmt: skip
def test_causal_at_any_length(function: Callable[..., Tensor]) -> None:
    # torch.export demands a length below that of the buffer: a slice of all of it is not dynamic to it.
    model, x = Compute(function, triangle=torch.ones(1, 1, 33, 33).tril()).eval(), torch.randn(2, 6, 24)
    axes = {0: torch.export.Dim("batch", min=2, max=32), 1: torch.export.Dim("length", min=2, max=32)}
    program = capture_module(model, (x,), {"x": axes})
    through(program)
    (call,) = [node for node in program.nodes if key(node) == "scaled_dot_product_attention"]
    assert arguments(call)["is_causal"] is True
    assert arguments(call)["attn_mask"] is None
    for value in (x, torch.randn(5, 11, 24)):
        torch.testing.assert_close(program.run((value,))[0], model(value), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fill", [-1e4, -1e9, torch.finfo(torch.float32).min])
def test_row_masked_entirely_stays_uniform(fill: float) -> None:
    """masked_fill forgets the scores it hides, where a bias would keep their differences."""

    def function(x: Tensor) -> Tensor:
        return (x @ x.mT).masked_fill(x[:, None, :, 0] > 0, fill).softmax(-1) @ x

    model, x = Compute(function).eval(), torch.randn(2, 5, 4).abs()
    x[1, 2] *= -1
    program = capture_module(model, (x,))
    through(program)
    assert operators(program)["scaled_dot_product_attention"] == 1
    torch.testing.assert_close(program.run((x,))[0], model(x), rtol=1e-5, atol=1e-5)


def test_weights_that_are_returned_keep_the_softmax() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        weights = (x @ x.mT).softmax(-1)
        return weights @ x, weights

    program = capture_module(Compute(function).eval(), (torch.randn(2, 5, 4),))
    context = through(program)
    assert "output of the model" in reasons(context)
    assert operators(program)["softmax"] == 1


@pytest.mark.parametrize(("through_type", "count"), [(torch.float64, 1), (torch.float32, 1), (torch.int32, 0)])
def test_nan_is_looked_for_in_another_floating_type(through_type: torch.dtype, count: int) -> None:
    def function(x: Tensor) -> Tensor:
        weights = (x @ x.mT).masked_fill(x[:, None, :, 0] > 9, -math.inf).softmax(-1)
        return torch.where(weights.to(through_type).isnan(), torch.zeros(()), weights) @ x

    model, x = Compute(function).eval(), torch.rand(2, 5, 4)
    program = capture_module(model, (x,))
    through(program)
    assert operators(program)["scaled_dot_product_attention"] == count
    hidden = torch.stack([x[0], x[1] + 10])
    for value in (x, hidden) if count else (x,):
        torch.testing.assert_close(program.run((value,))[0], model(value), rtol=1e-5, atol=1e-5)


HF = ("bert", "roberta", "distilbert", "gpt2", "llama", "qwen3", "t5-encoder", "whisper-encoder", "clip-text",
      "clip-vision", "swin", "swinv2", "bloom", "opt", "beit")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", HF)
def test_transformers_with_eager_attention(name: str) -> None:
    pytest.importorskip("transformers", reason="the models come from transformers")
    from tersor.models_zoo import hf

    made = hf.fields(name, 0, attention="eager")
    program = refresh(capture_module(made["model"], made["inputs"], made["dynamic"]))
    wanted, layers = program.run(program.inputs), operators(program)["softmax"]
    context = through(program)
    assert operators(program)["scaled_dot_product_attention"] == layers > 0, reasons(context)
    for a, b in zip(program.run(program.inputs), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5 * float(b.abs().max()))
