"""Rotations as a pass: eager PyTorch's outputs, outliers spread, and the first obstacle wherever one is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tersor.context import Context
from tersor.errors import UsageError
from tersor.passes.quantize import Quantize
from tersor.passes.rotate import Rotate
from tersor.pipeline import run
from tersor.program import Program
from tersor.refresh import refresh
from tersor.spec import parse, render
from tests.factor.zoo import assert_exports, distance, trained
from tests.passes.harness import assert_equal, captured, reasons

WIDTH, HEADS = 48, 4
SLOPES = torch.linspace(1, 2, WIDTH)


class Block(nn.Module):
    """Attention and a feed-forward part, each behind a normalisation and added to the stream."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(WIDTH), norm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 96), nn.Linear(96, WIDTH)
        for item in (self.norm1, self.norm2):
            nn.init.uniform_(item.get_parameter("weight"), 0.5, 2.0)
            if norm is nn.LayerNorm:
                nn.init.normal_(item.get_parameter("bias"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).reshape(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Stream(nn.Module):
    """Two blocks on a stream in which one channel is far larger than the others, and values with such channels."""

    def __init__(self, norm: type[nn.Module] = nn.LayerNorm, extra: Callable[..., torch.Tensor] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.start, self.place = nn.Linear(6, WIDTH), nn.Parameter(torch.randn(1, 10, WIDTH))
        blocks = [Block(norm), Block(norm)]
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.head, self.extra = norm(WIDTH), nn.Linear(WIDTH, 7), extra
        with torch.no_grad():
            self.start.weight[5] *= 40
            for block in blocks:
                block.qkv.weight[2 * WIDTH :: WIDTH // HEADS] *= 60

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.start(x) + self.place
        x = self.blocks(x if self.extra is None else self.extra(x))
        return self.head(self.norm(x)[:, 0])


X = torch.randn(16, 10, 6, generator=torch.Generator().manual_seed(1))


def rotated(program: Program, **options: object) -> tuple[Program, Context]:
    made, context = program.clone(), Context(calibration=((X,),))
    Rotate(**options)(made, context)  # type: ignore[arg-type]
    refresh(made)
    return made, context


def quantized(program: Program) -> Program:
    made = program.clone()
    Quantize(noise=1.0, weights="int8", ranges="min-max", backend="openvino")(made, Context(calibration=((X,),)))
    return refresh(made)


def energy(program: Program, other: Program) -> float:
    """Of what differs, as a share of the output's."""
    got, wanted = (item.run((X,))[0].double() for item in (program, other))
    return float((got - wanted).square().sum() / wanted.square().sum())


def test_pipelines_hold_all_exact_transforms() -> None:
    program = captured(Stream(), X)
    outcome = run(program, parse("rotate,equalize,smooth,permute"))
    steps = {step.spec: step for step in outcome.steps}
    assert [step.reason for step in outcome.steps if step.status == "dropped"] == []
    assert steps["rotate"].status == steps["smooth"].status == "kept"


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_outputs_stay_and_integers_lose_less(norm: type[nn.Module]) -> None:
    model = Stream(norm).eval()
    program = captured(model, X)
    made, context = rotated(program)
    told = "; ".join(site.detail for site in context.taken)
    assert f"{WIDTH} width" in told and "12 head-dim" in told and "times the root mean square, turned" in told
    assert_equal(made, model, X, tolerance=3e-5)
    before, after = (energy(quantized(item), program) for item in (program, made))
    assert after < 0.7 * before
    _, context = rotated(made)
    assert not context.taken and "of the predicted error would go" in reasons(context)


def test_an_exported_file_is_the_same(tmp_path: Path) -> None:
    made, context = rotated(captured(Stream(), X))
    assert context.taken
    assert_exports(made, (X,), tmp_path / "turned.onnx")


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (lambda x: x.relu(), "(relu) is not linear in it"),
        (lambda x: x * SLOPES, "multiplies each of its indices by another number"),
        (lambda x: x + x.sum(-1, keepdim=True), "sums over it"),
        (lambda x: x + x[:, :, :1].mean(1, keepdim=True), "stay"),
        (lambda x: x + 1.0, "adds the same to all of its indices"),
        (lambda x: x.softmax(-1), "runs over the whole axis"),
    ],
)
def test_what_is_not_linear_keeps_the_stream(extra: Callable[..., torch.Tensor], reason: str) -> None:
    _, context = rotated(captured(Stream(extra=extra), X))
    assert not any("width" in site.detail for site in context.taken) and reason in reasons(context)


def test_a_norm_whose_scale_no_layer_can_take_keeps_the_stream() -> None:
    class Post(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.start, self.inner, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
            self.norm, self.last = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            nn.init.uniform_(self.norm.weight, 0.5, 2.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.start(x))
            return self.head(self.last(x + self.inner(x)))

    made, context = rotated(captured(Post(), X))
    assert not context.taken and "is no layer that could take its scale" in reasons(context)
    assert any(name.endswith("norm.weight") for name in made.weights)


@pytest.mark.slow
def test_a_trained_transformer_computes_the_same() -> None:
    model = trained("zoo:digits-vit")
    made, context = model.after("rotate{least=0}")
    assert context.taken and context.skipped
    assert distance(made, model.program, model.calibration[0]) < 1e-4
    joint, _ = model.after("rotate,smooth,quantize")
    assert model.accuracy(joint) >= model.accuracy(model.program) - 0.005


@pytest.mark.parametrize("text", ["rotate{least=2}", "rotate{weights=int3}"])
def test_options_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_it_prints_back() -> None:
    assert render(parse("rotate{least=0.2}")) == "rotate{least=0.2}"
