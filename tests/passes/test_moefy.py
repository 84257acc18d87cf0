"""Feed-forward blocks as experts: exact where all tokens are taken, cheaper and near where not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersor.context import Context
from tersor.cost.flops import program_flops
from tersor.errors import UsageError
from tersor.passes.moefy import Moefy
from tersor.program import Program
from tersor.refresh import refresh
from tersor.spec import parse
from tests.factor.zoo import assert_exports, details, seeded, trained
from tests.passes.harness import assert_equal, captured, reasons


class FeedForward(nn.Module):
    """A feed-forward block, gated or not, with a residual connection."""

    def __init__(self, width: int, units: int, gated: bool = False, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(width, units, bias=bias), nn.Linear(units, width, bias=bias)
        self.gate = nn.Linear(width, units, bias=bias) if gated else None

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.up(x)) if self.gate is None else F.silu(self.gate(x)) * self.up(x)
        return x + self.down(inner)


def applied(model: nn.Module, x: Tensor, item: Moefy) -> tuple[Program, Context]:
    program, context = captured(model, x), Context(calibration=((x,),))
    item(program, context)
    refresh(program)
    return program, context


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_all_tokens_give_the_block(gated: bool, bias: bool) -> None:
    model, x = FeedForward(32, 64, gated, bias).eval(), seeded(2, 12, 32)
    program, context = applied(model, x, Moefy(experts=4, active=1.0, margin=1.0))
    assert not context.taken and "predicted work" in reasons(context)
    program, context = captured(model, x), Context(calibration=((x,),))
    item_that_always_pays(experts=4, active=1.0)(program, context)
    refresh(program)
    assert "4 experts on 16/16 of the tokens hold 100.0%" in details(context)
    assert_equal(program, model, x, tolerance=1e-4)


def test_a_gated_block_whose_layers_were_merged() -> None:
    model, x = FeedForward(32, 64, gated=True).eval(), seeded(2, 12, 32)
    program, context = captured(model, x), Context(calibration=((x,),))
    for item in (*parse("merge-linears"), item_that_always_pays(experts=4, active=1.0)):
        item(program, context)
        refresh(program)
    assert "4 experts on 16/16 of the tokens hold 100.0%" in details(context)
    assert_equal(program, model, x, tolerance=1e-4)


def item_that_always_pays(**options: float) -> Moefy:
    made = Moefy(**options)  # type: ignore[arg-type]
    object.__setattr__(made, "margin", 1e9)
    return made


def clustered(width: int, units: int, experts: int) -> tuple[FeedForward, Tensor]:
    """A block whose experts are switched by features of the input, and inputs that switch two of eight on."""
    model = FeedForward(width, units)
    generator = torch.Generator().manual_seed(1)
    parts = torch.randperm(units, generator=generator) % experts
    with torch.no_grad():
        model.up.weight.mul_(0.3)
        model.up.weight[:, :experts] = 6.0 * F.one_hot(parts, experts)
        model.up.bias.fill_(-4.0)
    x = torch.randn(8, 64, width, generator=generator)
    x[..., :experts] = (
        F.one_hot(torch.rand(8, 64, experts, generator=generator).topk(2).indices, experts).sum(-2).float()
    )
    return model.eval(), x


def taking_turns(tokens: int, experts: int) -> Tensor:
    """(tokens, experts) each expert is on at a quarter of any eight tokens in a row.

    With a quarter of the tokens taken, those taken and left are far apart: no runtime's rounding changes the choice.
    """
    order = torch.arange(tokens)
    first, second = (F.one_hot((order + shift) % experts, experts) for shift in (0, experts // 2 - 1))
    return (first + second).float()


def test_experts_that_are_there_are_found_and_pay() -> None:
    model, x = clustered(256, 1024, 8)
    before = program_flops(captured(model, x)).products
    program, context = applied(model, x, Moefy(active=0.375))
    (site,) = context.taken
    assert float(site.detail.split("hold ")[1].split("%")[0]) > 90
    assert program_flops(program).products < 0.4 * before
    with torch.no_grad():
        wanted = model(x) - x
        error = (program(x) - x - wanted).square().sum() / (wanted - wanted.mean((0, 1))).square().sum()
    assert float(error) < 0.1


def test_samples_do_not_depend_on_each_other_and_other_sizes_work() -> None:
    model, x = clustered(256, 1024, 8)
    program, _ = applied(model, x, Moefy())
    together = program(x)
    torch.testing.assert_close(program(x[2:5]), together[2:5], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", ["fixed", "dynamic"])
def test_exports(tokens: str, tmp_path: Path) -> None:
    from tersor.capture.torch import capture_module

    model, x = clustered(256, 1024, 8)
    x[..., :8], x[..., 8:] = taking_turns(64, 8), 0.25 * x[..., 8:]
    sizes = {0: torch.export.Dim("batch", min=2, max=64)}
    if tokens == "dynamic":
        sizes[1] = torch.export.Dim("tokens", min=2, max=512)
    program = refresh(capture_module(model, (x,), (sizes,)))
    context = Context(calibration=((x,),))
    Moefy(active=0.25)(program, context)
    refresh(program)
    assert context.taken
    other = x[:3] if tokens == "fixed" else x[:3, :40]
    assert_exports(program, (other,), tmp_path / "model.onnx")


def test_trained_blocks_are_too_narrow_to_pay_at_half_the_tokens() -> None:
    _, context = trained("zoo:digits-vit").after("moefy")
    assert not context.taken and reasons(context).count("predicted work would be") == 4


def test_a_trained_model_with_a_quarter_of_the_tokens() -> None:
    model = trained("zoo:text-encoder")
    made, context = model.after("moefy{experts=4;active=0.25;margin=1.0}")
    assert len(context.taken) == 3 and model.flops(made) < 0.7
    assert model.accuracy(made) >= model.accuracy(model.program) - 0.03


@pytest.mark.parametrize(
    ("x", "item", "reason"),
    [
        (seeded(40, 32), Moefy(), "2 dimensions"),
        (seeded(2, 12, 32), Moefy(experts=7), "not divided by 7 experts"),
        (seeded(2, 12, 32), Moefy(), "predicted work"),
    ],
)
def test_refusals(x: Tensor, item: Moefy, reason: str) -> None:
    _, context = applied(FeedForward(32, 64), x, item)
    assert not context.taken and reason in reasons(context)


def test_no_data_and_tokens_first_are_refused() -> None:
    model, x = clustered(256, 1024, 8)
    program, context = captured(model, x), Context()
    Moefy()(program, context)
    assert "no calibration data" in reasons(context)
    turned = nn.Sequential(Turn(), model, Turn())
    _, context = applied(turned, x, Moefy())
    assert "not the batch" in reasons(context)


class Turn(nn.Module):
    """Batch and tokens exchanged."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1)


@pytest.mark.parametrize("options", ["experts=1", "active=0", "active=1.5", "margin=0"])
def test_bad_options(options: str) -> None:
    with pytest.raises(UsageError, match="wanted"):
        parse(f"moefy{{{options}}}")
