"""Block-diagonal and Monarch products for wide linear layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tersor.context import Context
from tersor.cost.flops import program_flops
from tersor.errors import UsageError
from tersor.factor.monarch import Monarch
from tersor.passes.block_diagonal import BlockDiagonal
from tersor.refresh import refresh
from tersor.spec import parse
from tests.factor.zoo import assert_exports, details, seeded, trained
from tests.passes.harness import assert_equal, captured, operators, reasons


def with_weight(weight: Tensor, bias: bool = True) -> nn.Sequential:
    """A linear layer between two relus."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return nn.Sequential(nn.ReLU(), layer, nn.ReLU()).eval()


@pytest.mark.parametrize("shape", [(64, 256), (3, 20, 256), (2, 3, 20, 256)])
@pytest.mark.parametrize("data", [True, False])
def test_a_monarch_matrix_is_recognised(shape: tuple[int, ...], data: bool) -> None:
    made = Monarch(seeded(4, 64, 4, 8) / 8, seeded(4, 4, 8, 96, seed=1) / 8)
    model, x = with_weight(made.weight), seeded(*shape, seed=2)
    program, context = captured(model, x), Context(calibration=((x,),) if data else ())
    before = program_flops(program).products
    BlockDiagonal(ratio=0.25)(program, context)
    refresh(program)
    assert "Monarch of 4 x 4 blocks, rank 8" in details(context)
    assert program_flops(program).products == before * (256 + 384) * 4 * 8 // (256 * 384)
    assert_equal(program, model, x, tolerance=2e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_a_hidden_block_diagonal_matrix_is_recognised(bias: bool) -> None:
    order = [torch.randperm(n, generator=torch.Generator().manual_seed(n)) for n in (768, 512)]
    weight = torch.block_diag(*(seeded(192, 128, seed=seed) for seed in range(4)))[order[0]][:, order[1]] / 10
    model, x = with_weight(weight, bias), seeded(4, 50, 512)
    program, context = captured(model, x), Context()
    BlockDiagonal(monarch=False, ratio=0.25)(program, context)
    refresh(program)
    assert "4 blocks on the diagonal" in details(context)
    assert operators(program)["matmul"] == 1 and operators(program)["linear"] == 0
    assert_equal(program, model, x, tolerance=2e-4)


def test_the_fit_to_the_data_lowers_the_error_and_keeps_the_mean() -> None:
    mixing = seeded(256, 256, seed=5) * torch.logspace(0, -2, 256)
    x = (seeded(16, 40, 256) @ mixing) / 8 + 0.5
    model = nn.Linear(256, 256).eval()
    with torch.no_grad():
        wanted = model(x)
    errors, means = [], []
    for context in (Context(calibration=((x,),)), Context()):
        program = captured(model, x)
        BlockDiagonal(ratio=0.5)(program, context)
        refresh(program)
        assert context.taken
        got = program(x)
        errors.append(float((got - wanted).square().mean()))
        means.append(float((got - wanted).flatten(0, 1).mean(0).abs().max()))
    assert errors[0] < 0.5 * errors[1]
    assert means[0] < 1e-3


def test_dynamic_sizes_export(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(512, 512), nn.GELU()), seeded(2, 40, 512)
    for spec in ("block-diagonal", "block-diagonal{monarch=false;ratio=0.25}"):
        program = captured(model, x)
        for item in parse(spec):
            context = Context(calibration=((x,),))
            item(program, context)
        refresh(program)
        assert context.taken
        assert_exports(program, (seeded(3, 40, 512, seed=1),), tmp_path / "model.onnx")


def test_a_trained_model_stays_accurate(tmp_path: Path) -> None:
    model = trained("zoo:digits-vit")
    made, context = model.after("block-diagonal{blocks=2;ratio=0.75}")
    assert context.taken and model.flops(made) < 0.78
    assert model.accuracy(made) >= model.accuracy(model.program) - 0.03
    assert_exports(made, model.calibration[0], tmp_path / "model.onnx")


def test_sizes_that_are_no_blocks_and_small_layers_stay() -> None:
    model, x = nn.Sequential(nn.Linear(30, 64), nn.Linear(64, 8)), seeded(4, 30)
    program, context = captured(model, x), Context(calibration=((x,),))
    BlockDiagonal()(program, context)
    assert not context.taken
    assert "64 x 30 is not 4 x 4 blocks" in reasons(context) and "no rank pays" in reasons(context)


@pytest.mark.parametrize("options", ["blocks=1", "ratio=0", "multiple=0", "margin=9"])
def test_bad_options(options: str) -> None:
    with pytest.raises(UsageError, match="wanted"):
        parse(f"block-diagonal{{{options}}}")
