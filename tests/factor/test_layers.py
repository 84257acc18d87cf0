"""Which layers can be factorised, what they read, and that a chain stands for one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersor.context import Context
from tersor.convolution import CONVOLUTIONS
from tersor.factor.layers import Layer, Piece, layers, put_chain
from tersor.refresh import refresh
from tests.passes.harness import Compute, assert_equal, captured, operators, reasons

ALL = ("linear", *CONVOLUTIONS)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def only(model: nn.Module, x: Tensor) -> Layer:
    (found,) = layers(captured(model, x), Context(), ALL)
    return found


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "2 groups"),
        (Compute(lambda x, w: F.linear(x, w) + F.linear(x.relu(), w), w=normal(4, 6)), "read by several nodes"),
        (Compute(lambda x, w: F.linear(x, w.sin() + x.mean()), w=normal(4, 6)), "computed in the graph"),
        (Compute(lambda x, w: F.linear(x, w), w=normal(4, 6) * float("nan")), "not finite"),
    ],
)
def test_refusals(model: nn.Module, reason: str) -> None:
    context = Context()
    assert layers(captured(model, normal(2, 4, 6, 6)), context, ALL) == []
    assert reason in reasons(context)


def test_costs_are_those_of_the_shapes() -> None:
    found = only(nn.Conv2d(3, 8, 3, stride=2, padding=1), normal(2, 3, 8, 8))
    assert (found.rows, found.places, found.kernel) == (2 * 4 * 4, 2 * 8 * 8, 9)
    assert found.stage.flops == 2 * 2 * 16 * 8 * 3 * 9


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (nn.Conv2d(3, 5, 3, stride=2, padding=1, dilation=2), normal(2, 3, 9, 8)),
        (nn.Conv2d(3, 5, 3, padding="same"), normal(2, 3, 5, 6)),
        (nn.Conv1d(3, 5, 4), normal(2, 3, 9)),
        (nn.Conv3d(2, 5, 2), normal(2, 2, 3, 4, 5)),
        (nn.Linear(3, 5), normal(2, 4, 3)),
    ],
)
def test_the_mean_output_follows_from_the_patch_sums(model: nn.Module, x: Tensor) -> None:
    found = only(model, x)
    output = model(x).detach().double()
    dim = 2 if found.is_linear else 1
    mean = output.movedim(dim, 0).flatten(1).mean(1)
    sums = found.weight.double().flatten(1) @ found.patch_sums(x).flatten() / found.rows
    assert found.bias is not None
    torch.testing.assert_close(sums + found.bias.double(), mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "model", [nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, padding="same", bias=False)]
)
def test_a_chain_computes_the_layer(model: nn.Module) -> None:
    x = normal(2, 4, 8, 8)
    program = captured(nn.Sequential(model, nn.ReLU()), x)
    (found,) = layers(program, Context(), ALL)
    mix = normal(4, 4, seed=1)
    pieces = [
        Piece(mix),
        Piece(torch.einsum("oi...,ij->oj...", found.weight, mix.inverse())),
        Piece(torch.eye(6), found.bias),
    ]
    put_chain(program, found, pieces)
    program.prune_weights()
    refresh(program)
    assert operators(program) == {"conv2d": 3, "relu": 1}
    assert found.name in [node.name for node in program.nodes]
    assert_equal(program, nn.Sequential(model, nn.ReLU()), x)


def test_a_chain_at_the_output_keeps_its_name_and_dtype() -> None:
    model, x = nn.Linear(6, 4), normal(2, 3, 6)
    program = captured(model, x)
    (found,) = layers(program, Context(), ALL)
    names = program.interface.output_names
    put_chain(program, found, [Piece(torch.eye(6).double()), Piece(found.weight.double(), found.bias)])
    refresh(program)
    assert program.interface.output_names == names
    assert program.outputs[0].name == found.name
    assert_equal(program, model, x)
