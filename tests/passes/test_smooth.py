"""SmoothQuant as a pass: the outputs stay, and eight-bit layers lose less."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tersor.context import Context
from tersor.errors import UsageError
from tersor.passes.quantize import Quantize
from tersor.passes.smooth import Smooth
from tersor.program import Program
from tersor.refresh import refresh
from tersor.spec import parse, render
from tests.factor.zoo import distance, trained
from tests.passes.harness import apply, captured, operators, reasons


class Block(nn.Module):
    """A normalisation with a few large channels, as large language models have them, read by two layers."""

    def __init__(self, norm: type[nn.Module], residual: bool = False, wide: int = 48) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.left, self.right, self.residual = norm(64), nn.Linear(64, wide), nn.Linear(64, 32), residual
        with torch.no_grad():
            self.norm.get_parameter("weight")[::20] *= 80
            for layer in (self.left, self.right):
                layer.weight[:, ::20] /= 80

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        made = torch.cat([self.left(h), self.right(h)], -1)
        return made + h.mean() if self.residual else made


def smoothed(program: Program, x: torch.Tensor, **options: object) -> tuple[Program, Context]:
    made, context = program.clone(), Context(calibration=((x,),))
    Smooth(**options)(made, context)  # type: ignore[arg-type]
    refresh(made)
    return made, context


def quantized(program: Program, x: torch.Tensor) -> Program:
    made = program.clone()
    Quantize(noise=1.0)(made, Context(calibration=((x,),)))
    refresh(made)
    return made


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_outputs_stay_and_integers_lose_less(norm: type[nn.Module]) -> None:
    x = torch.randn(16, 10, 64, generator=torch.Generator().manual_seed(1))
    program = captured(Block(norm), x)
    made, context = smoothed(program, x)
    assert len(context.taken) == 1 and "of the predicted error goes" in context.taken[0].detail
    assert distance(made, program, (x,)) < 1e-5
    before, after = (distance(quantized(item, x), program, (x,)) for item in (program, made))
    assert after < 0.35 * before


@pytest.mark.parametrize("bias", [True, False])
def test_channels_that_lie_off_zero_are_shifted(bias: bool) -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(64)
    model = nn.Sequential(norm, nn.Linear(64, 32, bias=bias)).eval()
    with torch.no_grad():
        norm.bias[::5] = 20.0
        norm.bias[1::5] = -15.0
    x = torch.randn(16, 10, 64, generator=torch.Generator().manual_seed(1))
    program = captured(model, x)
    (plain, _), (made, context) = (smoothed(program, x, shift=shift) for shift in (False, True))
    assert "with shifts of up to 2" in context.taken[0].detail
    assert distance(made, program, (x,)) < 1e-5
    before, after = (distance(quantized(item, x), program, (x,)) for item in (plain, made))
    assert after < 0.5 * before


def test_a_second_time_finds_nothing() -> None:
    x = torch.randn(16, 10, 64)
    made, _ = smoothed(captured(Block(nn.LayerNorm), x), x)
    _, context = smoothed(made, x)
    assert not context.taken and "of the predicted error would go" in reasons(context)


def test_a_reader_that_is_no_layer_leaves_it_as_it_is() -> None:
    x = torch.randn(4, 10, 64)
    _, context = smoothed(captured(Block(nn.LayerNorm, residual=True), x), x)
    assert not context.taken and "is no layer that could take the factors" in reasons(context)


def test_a_multiplication_in_front_of_large_layers_leaves_other_readers_alone() -> None:
    x = torch.randn(16, 10, 64, generator=torch.Generator().manual_seed(1))
    program = captured(Block(nn.LayerNorm, residual=True, wide=256), x)
    made, context = smoothed(program, x, insert=True)
    assert len(context.taken) == 1 and operators(made)["mul"] == 1
    assert distance(made, program, (x,)) < 1e-5
    before, after = (distance(quantized(item, x), program, (x,)) for item in (program, made))
    assert after < 0.35 * before
    again, context = smoothed(made, x, insert=True)
    assert not context.taken and operators(again)["mul"] == 1


def test_small_layers_are_not_worth_a_multiplication() -> None:
    x = torch.randn(4, 10, 64)
    _, context = smoothed(captured(Block(nn.LayerNorm, residual=True), x), x, insert=True)
    assert not context.taken and "is no layer that could take the factors" in reasons(context)


def test_a_trained_transformer_computes_the_same() -> None:
    model = trained("zoo:digits-vit")
    made, context = model.after("smooth{least=0}")
    assert context.taken
    assert distance(made, model.program, model.calibration[0]) < 1e-4


@pytest.mark.parametrize("text", ["smooth{alpha=2}", "smooth{least=-1}", "smooth{weights=int3}"])
def test_options_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_it_prints_back() -> None:
    assert render(parse("smooth{alpha=0.5}")) == "smooth{alpha=0.5}"


class Gated(nn.Module):
    """A gated feed-forward part, whose product has a few large channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.up, self.down = nn.Linear(32, 64), nn.Linear(32, 64, bias=False), nn.Linear(64, 32)
        with torch.no_grad():
            self.up.weight[::20] *= 80
            self.down.weight[:, ::20] /= 80

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


@pytest.mark.parametrize("first", ["canonicalize", "canonicalize,merge-linears"])
def test_the_layer_before_takes_in_factors_through_a_product(first: str) -> None:
    x = torch.randn(16, 10, 32, generator=torch.Generator().manual_seed(1))
    program = captured(Gated(), x)
    apply(program, first)
    made, context = smoothed(program, x)
    assert [site.node.split("_")[0] for site in context.taken] == ["mul"]
    assert distance(made, program, (x,)) < 1e-5
    before, after = (distance(quantized(item, x), program, (x,)) for item in (program, made))
    assert after < 0.5 * before


def test_what_others_read_too_gets_no_factors() -> None:
    class Shared(Gated):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner = nn.functional.silu(self.gate(x)) * self.up(x)
            return self.down(inner) + inner.mean()

    x = torch.randn(4, 10, 32)
    assert smoothed(captured(Shared(), x), x)[1].taken == []
