"""Permutation as a pass: outputs stay, a pattern keeps more, and sparse layers then lose less."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tersor.context import Context
from tersor.errors import UsageError
from tersor.passes.permute import Permute
from tersor.passes.sparsify import Sparsify
from tersor.program import Program
from tersor.refresh import refresh
from tersor.sparse.pattern import parse as pattern_of
from tersor.sparse.permute import kept
from tersor.spec import parse, render
from tests.factor.zoo import distance, trained
from tests.passes.harness import assert_equal, captured, reasons


class Net(nn.Module):
    """Hidden channels of which the important ones share blocks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.norm, self.down = nn.Linear(12, 64), nn.LayerNorm(64), nn.Linear(64, 32)
        with torch.no_grad():
            self.down.weight[:, :32] *= 0.02

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.norm(nn.functional.gelu(self.up(x))))


X = torch.randn(64, 12, generator=torch.Generator().manual_seed(1))


def permuted(program: Program, **options: object) -> tuple[Program, Context]:
    made, context = program.clone(), Context(calibration=((X,),))
    Permute(**options)(made, context)  # type: ignore[arg-type]
    return refresh(made), context


def sparse(program: Program, method: str) -> Program:
    made = program.clone()
    Sparsify(method=method, anyway=True)(made, Context(calibration=((X,),)))
    return refresh(made)


@pytest.mark.parametrize("score", ["magnitude", "wanda", "sparsegpt"])
def test_outputs_stay_and_more_is_kept(score: str) -> None:
    model = Net().eval()
    program = captured(model, X)
    made, context = permuted(program, score=score)
    assert len(context.taken) == 1 and "2:4 keeps" in context.taken[0].detail
    assert len(context.proofs) > 0 and all(item.passed for item in context.proofs)
    assert_equal(made, model, X)
    assert [node.name for node in made.nodes] == [node.name for node in program.nodes]
    name, pattern = next(name for name in program.weights if name.endswith("down.weight")), pattern_of("2:4")
    assert kept(made.weights[name], pattern) > 1.3 * kept(program.weights[name], pattern)
    method = "sparsegpt" if score == "sparsegpt" else "magnitude"
    before, after = (distance(sparse(item, method), program, (X,)) for item in (program, made))
    assert after < 0.7 * before
    _, context = permuted(made, score=score)
    assert not context.taken and "too little to reorder" in reasons(context)


def test_what_stays_says_why() -> None:
    _, context = permuted(captured(nn.Sequential(nn.Linear(12, 64), nn.Linear(64, 32), nn.Linear(32, 6)), X), inputs=48)
    assert "graph input" in reasons(context) and "no layer that reads them takes 2:4" in reasons(context)


@pytest.mark.slow
def test_a_trained_transformer_keeps_more_and_sparsegpt_loses_less() -> None:
    model = trained("zoo:digits-vit")
    made, context = model.after("permute{score=sparsegpt}")
    assert len(context.taken) > 4 and "stay in their order: another order moves no weight" in reasons(context)
    assert distance(made, model.program, model.calibration[0]) < 1e-5


@pytest.mark.parametrize("text", ["permute{pattern=4:2}", "permute{score=best}", "permute{least=2}",
                                  "permute{kicks=-1}", "permute{inputs=0}", "permute{work=-1}"])  # fmt: skip
def test_options_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_it_prints_back() -> None:
    assert render(parse("permute{pattern=4:8;kicks=5}")) == "permute{pattern=4:8;kicks=5}"
