"""Residual blocks removed or shared: which, how many, and what is left of trained models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tersor.context import Context
from tersor.errors import UsageError
from tersor.passes.prune_layers import PruneLayers
from tersor.refresh import refresh
from tersor.spec import parse
from tests.factor.zoo import assert_cheaper, assert_exports, details, seeded, trained
from tests.passes.harness import captured, operators, reasons


class Stack(nn.Module):
    """Residual blocks of which some do next to nothing."""

    def __init__(self, strengths: tuple[float, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in strengths)
        self.strengths = strengths
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        for strength, block in zip(self.strengths, self.blocks, strict=True):
            x = x + strength * torch.tanh(block(x))
        return self.head(x)


X = seeded(6, 16)


@pytest.mark.parametrize("score", ["output", "influence"])
def test_the_weakest_blocks_go(score: str) -> None:
    model = Stack((1.0, 0.01, 1.5, 0.02)).eval()
    program, context = captured(model, X), Context(calibration=((X,),))
    PruneLayers(count=2, score=score)(program, context)  # type: ignore[arg-type]
    refresh(program)
    assert operators(program)["linear"] == 3 and operators(program)["tanh"] == 2
    assert len(context.taken) == 2 and reasons(context).count("it would hurt more") == 2
    kept = Stack((1.0, 1.5)).eval()
    for own, theirs in zip(kept.blocks, (model.blocks[0], model.blocks[2]), strict=True):
        own.load_state_dict(theirs.state_dict())
    kept.head.load_state_dict(model.head.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(program(X), kept(X))


def test_a_ratio_is_not_exceeded() -> None:
    program, context = captured(Stack((1.0,) * 4).eval(), X), Context(calibration=((X,),))
    PruneLayers(ratio=0.5)(program, context)
    refresh(program)
    # Each block holds 256 of 4 * 256 + 64 multiplications.
    assert operators(program)["linear"] == 3
    assert "more than may still be removed" in reasons(context)


def test_more_than_there_are() -> None:
    program, context = captured(Stack((1.0, 2.0)).eval(), X), Context()
    PruneLayers(count=9)(program, context)
    refresh(program)
    assert len(context.taken) == 2 and operators(program) == {"linear": 1}


def test_the_block_that_is_most_like_its_neighbour_shares_its_weights() -> None:
    model = Stack((1.0, 1.0, 1.0)).eval()
    with torch.no_grad():
        model.blocks[2].weight.copy_(model.blocks[1].weight + 1e-3)  # type: ignore[arg-type, operator]
        model.blocks[2].bias.copy_(model.blocks[1].bias)  # type: ignore[arg-type, operator]
    program, context = captured(model, X), Context(calibration=((X,),))
    before, wanted = program.parameter_bytes(), program(X)
    PruneLayers(share=True)(program, context)
    refresh(program)
    assert "takes the weights of" in details(context)
    assert before - program.parameter_bytes() == 4 * (16 * 16 + 16)
    torch.testing.assert_close(program(X), wanted, rtol=0, atol=0.1)


def test_sharing_twice_saves_twice() -> None:
    program, context = captured(Stack((1.0, 1.0, 1.0)).eval(), X), Context(calibration=((X,),))
    before = program.parameter_bytes()
    PruneLayers(share=True, count=2)(program, context)
    refresh(program)
    assert before - program.parameter_bytes() == 2 * 4 * (16 * 16 + 16)


@pytest.mark.parametrize(
    ("name", "spec", "kept", "loss"),
    [
        ("zoo:digits-vit", "prune-layers{count=2}", 0.76, 0.03),
        ("zoo:text-encoder", "prune-layers", 0.87, 0.03),
        ("zoo:digits-cnn", "prune-layers", 0.75, 0.01),
    ],
)
def test_trained_models(name: str, spec: str, kept: float, loss: float, tmp_path: Path) -> None:
    model = trained(name)
    made, context = model.after(spec)
    assert_cheaper(model, made, kept, loss)
    assert context.skipped
    assert_exports(made, model.calibration[0], tmp_path / "model.onnx")


def test_sharing_in_a_trained_model(tmp_path: Path) -> None:
    model = trained("zoo:digits-vit")
    made, _ = model.after("prune-layers{share=true}")
    assert made.parameter_bytes() < 0.87 * model.program.parameter_bytes()
    assert model.flops(made) == 1.0
    assert model.accuracy(made) >= model.accuracy(model.program) - 0.04
    assert_exports(made, model.calibration[0], tmp_path / "model.onnx")


def test_a_limit_is_obeyed() -> None:
    model = trained("zoo:digits-vit")
    made, context = model.after(
        "prune-layers{count=2}", Context(limit=lambda site: False, calibration=model.calibration)
    )
    assert not context.taken and model.flops(made) == 1.0


def test_programs_without_blocks() -> None:
    program, context = captured(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), seeded(2, 4)), Context()
    PruneLayers()(program, context)
    assert not context.taken and not context.skipped


@pytest.mark.parametrize("options", ["count=0", "ratio=2", "score=best"])
def test_bad_options(options: str) -> None:
    with pytest.raises(UsageError, match="wanted"):
        parse(f"prune-layers{{{options}}}")
