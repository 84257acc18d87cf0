"""The prune passes: proof, budget, minima, reasons, and what wrong options and wrong data lead to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import tersor
from tersor.axes import analyze
from tersor.axes.traffic import latency, memory
from tersor.capture import load
from tersor.context import Context
from tersor.cost.flops import program_flops
from tersor.errors import UsageError
from tersor.passes.prune import Prune
from tersor.passes.prune_channels import PruneChannels
from tersor.passes.prune_heads import PruneHeads
from tersor.passes.prune_mlp import PruneMlp
from tersor.program import Program
from tersor.spec import parse, render
from tersor.target import Target


class Block(nn.Module):
    """A residual transformer block with a convolution in front."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 2, 2)
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down, self.head = nn.Linear(16, 64), nn.Linear(64, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.patch(x).flatten(2).transpose(1, 2)
        b, n, _ = h.shape
        q, k, v = self.qkv(self.norm(h)).reshape(b, n, 3, 4, 4).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        h = h + self.out(mixed.transpose(1, 2).reshape(b, n, 16))
        h = h + self.down(nn.functional.gelu(self.up(h)))
        return self.head(h.mean(1))


@pytest.fixture
def program() -> Program:
    torch.manual_seed(0)
    return load(Block().eval(), (torch.rand(2, 3, 8, 8),))


def applied(program: Program, item: Any) -> tuple[Program, Context]:
    context = Context(calibration=(program.inputs,))
    candidate = program.clone()
    item(candidate, context)
    return candidate, context


@pytest.mark.parametrize(
    ("item", "sites"),
    [
        (PruneMlp(ratio=0.5, criterion="magnitude"), ["64 to 32 hidden of up"]),
        (PruneHeads(ratio=0.5, criterion="magnitude"), ["4 to 2 heads of qkv"]),
        (PruneHeads(ratio=0.5, inside=True, allocation="uniform", criterion="magnitude"), None),
    ],
)
def test_each_cut_is_proven_and_told(program: Program, item: Any, sites: list[str] | None) -> None:
    candidate, context = applied(program, item)
    assert context.proofs and all(parity.passed for parity in context.proofs)
    if sites is not None:
        assert [site.detail for site in context.taken] == sites
    assert program_flops(candidate).products < program_flops(program).products
    assert candidate.run(program.inputs)[0].shape == (2, 5)


def test_the_original_is_not_touched(program: Program) -> None:
    before = {name: value.clone() for name, value in program.weights.items()}
    applied(program, PruneMlp(ratio=0.5, criterion="magnitude"))
    assert all(torch.equal(before[name], value) for name, value in program.weights.items())


@pytest.mark.parametrize("allocation", ["uniform", "global", "greedy", "knapsack"])
def test_a_budget_in_operations_is_met(program: Program, allocation: Any) -> None:
    item = Prune(ratio=0.4, of="flops", criterion="magnitude", allocation=allocation, multiple=1)
    candidate, _ = applied(program, item)
    assert program_flops(candidate).products <= 0.61 * program_flops(program).products


@pytest.mark.parametrize("measure", ["memory", "latency"])
def test_budgets_in_bytes_and_in_predicted_time(program: Program, measure: Any) -> None:
    costs = {"memory": memory, "latency": lambda item, axes: latency(item, axes, Target("cpu"))}

    def cost(item: Program) -> float:
        return float(costs[measure](item, analyze(item)).total())

    candidate, context = applied(program, Prune(ratio=0.3, of=measure, criterion="magnitude", multiple=1))
    assert context.taken
    assert 0.6 * cost(program) < cost(candidate) <= 0.7 * cost(program)


def test_what_cannot_be_cut_has_its_reason() -> None:
    program = load(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), (torch.randn(2, 4),))
    _, context = applied(program, PruneMlp(criterion="magnitude"))
    assert not context.taken
    assert any("graph output" in site.detail for site in context.skipped)


def test_nothing_is_cut_below_the_minimum(program: Program) -> None:
    _, context = applied(program, PruneMlp(ratio=0.4, minimum=0.5, criterion="magnitude"))
    (site,) = context.taken
    assert int(site.detail.split(" to ")[1].split()[0]) >= 32


@pytest.mark.parametrize(
    "text",
    ["prune-channels{ratio=1.5}", "prune-mlp{ratio=0}", "prune-mlp{minimum=2}", "prune-heads{multiple=-1}",
     "prune{kinds=channel}", "prune-mlp{allocation=best}", "prune-mlp{of=joules}", "prune-mlp{rato=0.5}",
     "prune-mlp{ratio=0.5;minimum=0.6}"],
)  # fmt: skip
def test_options_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_a_misspelt_criterion_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'magnitude'"):
        parse("prune-mlp{criterion=magnitud}")


def test_pipelines_print_back() -> None:
    text = "prune-heads{ratio=0.25;inside=True},prune{ratio=0.5;of=flops;allocation=knapsack;kinds=channels+hidden}"
    assert render(parse(text)) == text


def test_without_a_budget_nothing_that_loses_is_kept(program: Program) -> None:
    fast = tersor.optimize(
        Block().eval(), program.inputs, passes="prune-mlp{criterion=magnitude}", backend="eager", progress=False,
        seconds=0.0,
    )  # fmt: skip
    (step,) = fast.report.steps
    assert step.status == "dropped"
    assert "budget" in step.reason


def test_scores_that_are_not_finite_drop_the_pass_with_a_reason(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tersor import importance

    def broken(program: Any, axes: Any, groups: Any, context: Any) -> Any:
        return {group.axis: torch.full((group.size,), float("nan")) for group in groups}

    monkeypatch.setitem(importance.CRITERIA, "magnitude", broken)
    fast = tersor.optimize(
        Block().eval(), program.inputs, passes="prune-mlp{criterion=magnitude}", backend="eager", progress=False,
        seconds=0.0, budget=1.0,
    )  # fmt: skip
    (step,) = fast.report.steps
    assert step.status == "dropped" and "finite" in step.reason


def test_channels_of_a_residual_network() -> None:
    torch.manual_seed(0)
    stem, conv = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.head = stem, conv, nn.Linear(32, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.stem(x)
            return self.head((h + self.conv(h)).mean((2, 3)))

    program = load(Net().eval(), (torch.rand(2, 3, 8, 8),))
    candidate, context = applied(program, PruneChannels(ratio=0.5, criterion="magnitude"))
    assert [site.detail for site in context.taken] == ["32 to 16 channels of stem"]
    shapes = {name: tuple(value.shape) for name, value in candidate.weights.items()}
    assert shapes["conv.weight"] == (16, 16, 3, 3) and shapes["head.weight"] == (4, 16)
