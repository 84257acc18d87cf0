"""Half precision: the same answers, where it does not overflow; in runtimes the program's own numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tersor.check import RUNTIME_FLOOR
from tersor.context import Context
from tersor.errors import UsageError
from tersor.export import save_onnx
from tersor.export.runtime import Session
from tersor.pipeline import Reference
from tersor.program import Program
from tersor.refresh import refresh
from tersor.rewrite_values import fake, key
from tersor.spec import parse
from tersor.target import detect
from tests.factor.zoo import details, seeded
from tests.passes.harness import captured, operators, reasons


class Attention(nn.Module):
    """A transformer layer with an embedding and a split."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.norm, self.qkv, self.out = (
            nn.Linear(32, 32),
            nn.LayerNorm(32),
            nn.Linear(32, 96),
            nn.Linear(32, 8),
        )
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        q, k, v = self.qkv(self.norm(h)).chunk(3, -1)
        mixed = nn.functional.scaled_dot_product_attention(q[:, None] * self.scale, k[:, None] * self.scale, v[:, None])
        return self.out(h + mixed[:, 0])


def applied(
    model: nn.Module, x: Tensor, spec: str = "cast", context: Context | None = None
) -> tuple[Program, Program, Context]:
    program = captured(model, x)
    made, context = program.clone(), context or Context(calibration=((x,),))
    for item in parse(spec):
        item(made, context)
        refresh(made)
    return program, made, context


def dtypes(program: Program, name: str) -> set[torch.dtype]:
    return {fake(node).dtype for node in program.nodes if key(node) == name}


@pytest.mark.parametrize(("name", "limit"), [("float16", 1e-3), ("bfloat16", 1e-2)])
def test_layers_compute_in_half_and_the_interface_stays(name: str, limit: float) -> None:
    x = seeded(4, 6, 32)
    program, made, context = applied(Attention(), x, f"cast{{dtype={name};backend=openvino}}")
    half = getattr(torch, name)
    assert dtypes(made, "linear") == {half} and dtypes(made, "layer_norm") == {torch.float32}
    assert f"computes in {name}" in details(context) and f"layer_norm in {name} would lose bits" in reasons(context)
    (wanted,), (got,) = program.run((x,)), made.run((x,))
    assert got.dtype == torch.float32
    assert 0 < float((got - wanted).norm() / wanted.norm()) < limit
    assert made.parameter_bytes() < 0.55 * program.parameter_bytes()


def test_casts_stand_only_where_the_precision_changes() -> None:
    _, made, _ = applied(Attention(), seeded(4, 6, 32))
    assert operators(made)["_to_copy"] == 4  # input, around the norm, output


def test_the_file_computes_what_the_program_does(tmp_path: Path) -> None:
    x = seeded(4, 6, 32)
    program, made, _ = applied(Attention(), x)
    reference = Reference.of(made)
    path = save_onnx(made, tmp_path / "half.onnx")
    assert path.stat().st_size < 0.75 * save_onnx(program, tmp_path / "single.onnx").stat().st_size
    session = Session(path)
    parity = reference.judge("the file", lambda *inputs: session.run(inputs), RUNTIME_FLOOR)
    assert all(item.passed for item in parity)
    wrong = reference.judge("wrong", lambda *inputs: tuple(1.05 * item for item in session.run(inputs)), RUNTIME_FLOOR)
    assert not all(item.passed for item in wrong)


class Large(nn.Module):
    """A layer whose result float16 cannot hold, and a mask of the largest negative number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        with torch.no_grad():
            self.first.weight.mul_(1e5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(self.first(x) * 1e-5)
        return h.masked_fill(h < 0, torch.finfo(torch.float32).min).softmax(-1)


def test_what_overflows_stays_in_float32() -> None:
    x = seeded(4, 16)
    program, made, context = applied(Large(), x)
    first, second = (node for node in made.nodes if key(node) == "linear")
    assert fake(first).dtype == torch.float32 and fake(second).dtype == torch.float16
    assert "that float16 holds" in reasons(context) and "3.4e+38" in reasons(context)
    torch.testing.assert_close(made.run((x,))[0], program.run((x,))[0], rtol=1e-2, atol=1e-2)
    _, other, _ = applied(Large(), x, "cast{dtype=bfloat16;backend=eager}")
    assert dtypes(other, "linear") == {torch.bfloat16}


def test_products_inside_attention_count() -> None:
    x = seeded(4, 6, 32)
    _, made, context = applied(Attention(scale=100.0), x)
    assert dtypes(made, "scaled_dot_product_attention") == {torch.float32}
    assert "a product of query and key reaches" in reasons(context)


def test_stored_weights_and_missing_kernels_are_left_alone() -> None:
    x = seeded(4, 6, 32)
    _, made, context = applied(Attention(), x, "quantize-weights,cast")
    assert dtypes(made, "linear") == {torch.float32, torch.float16}
    assert "its weight is stored in fewer bits" in reasons(context)
    target = replace(detect(), device="cpu")
    program, same, context = applied(Attention(), x, "cast{dtype=bfloat16}", Context(target=target))
    assert not context.taken and "onnxruntime on the cpu has no kernels in bfloat16" in reasons(context)
    assert operators(same) == operators(program)


@pytest.mark.parametrize("text", ["cast{dtype=float8}", "cast{margin=0.5}"])
def test_options_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)
