"""Layers as linear systems, against the operators themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tersor.program import Program
from tersor.recover.layers import (
    Layer,
    add_to_bias,
    add_to_weight,
    bias_unwritable,
    input_rows,
    layer_of,
    output_rows,
    positions,
    unwritable,
)
from tests.passes.harness import Compute, captured

IMAGE, SIGNAL, VOLUME = (2, 6, 7, 8), (2, 6, 9), (2, 4, 4, 5, 3)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 4), (2, 3, 5)),
    "linear-2d": (lambda: nn.Linear(5, 4, bias=False), (3, 5)),
    "conv1d": (lambda: nn.Conv1d(6, 4, 3, padding=1), SIGNAL),
    "conv2d": (lambda: nn.Conv2d(6, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), IMAGE),
    "conv2d-same": (lambda: nn.Conv2d(6, 4, (4, 3), padding="same"), IMAGE),
    "conv2d-valid": (lambda: nn.Conv2d(6, 4, 3, padding="valid", bias=False), IMAGE),
    "conv2d-grouped": (lambda: nn.Conv2d(6, 8, 3, groups=2), IMAGE),
    "conv2d-depthwise": (lambda: nn.Conv2d(6, 12, 3, padding=1, groups=6), IMAGE),
    "conv3d": (lambda: nn.Conv3d(4, 3, (2, 3, 1), padding=(0, 1, 0)), VOLUME),
    "transposed1d": (lambda: nn.ConvTranspose1d(6, 4, 3, stride=2, padding=1), SIGNAL),
    "transposed2d": (
        lambda: nn.ConvTranspose2d(6, 4, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 0), dilation=(1, 2)),
        IMAGE,
    ),
    "transposed2d-grouped": (lambda: nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2), IMAGE),
}


def found(program: Program) -> Layer:
    layers = [layer for node in program.nodes if (layer := layer_of(node)) is not None]
    assert len(layers) == 1
    return layers[0]


def rows_of(layer: Layer, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    at = torch.randperm(positions(layer, y), generator=torch.Generator().manual_seed(0))[:40]
    return input_rows(layer, x, y, at).double(), output_rows(layer, y, at).double()


def check(program: Program, x: Tensor, shifted: bool = True) -> None:
    """Changing weight and bias moves the output by what the rows say."""
    layer = found(program)
    (before,) = program.run([x])
    rows, outputs = rows_of(layer, x, before)
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(layer.groups, rows.shape[-1], outputs.shape[-1], generator=generator, dtype=torch.float64)
    shift = torch.randn(layer.groups, outputs.shape[-1], generator=generator, dtype=torch.float64) * shifted
    assert not unwritable(program, layer)
    edited = program.clone()
    layer = found(edited)
    add_to_weight(edited, layer, matrix)
    if shifted:
        add_to_bias(edited, layer, shift)
    edited.changed()
    _, moved = rows_of(layer, x, edited.run([x])[0])
    wanted = outputs + torch.einsum("ngi,gio->ngo", rows, matrix) + shift
    torch.testing.assert_close(moved, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(program.run([x])[0], before)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_weight_are_the_output(name: str) -> None:
    build, shape = LAYERS[name]
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(2))
    check(captured(build(), x), x)


@pytest.mark.parametrize(
    ("function", "shifted"),
    [
        (lambda x, w, b: x @ w, False),
        (lambda x, w, b: torch.mm(x, w), False),
        (lambda x, w, b: torch.addmm(b, x, w), True),
    ],
)
def test_products_with_a_weight(function: Any, shifted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    model = Compute(function, w=torch.randn(5, 4, generator=generator), b=torch.randn(4, generator=generator))
    x = torch.randn(6, 5, generator=generator)
    program = captured(model, x)
    assert bool(bias_unwritable(program, found(program))) is not shifted
    check(program, x, shifted)


def test_weights_that_others_read_are_not_writable() -> None:
    weight = torch.randn(5, 5)
    program = captured(Compute(lambda x, w: torch.relu(x @ w) @ w, w=weight), torch.randn(3, 5))
    layers = [layer for node in program.nodes if (layer := layer_of(node)) is not None]
    assert [unwritable(program, layer) for layer in layers] == ["its weight is shared with other nodes"] * 2


def test_weights_in_the_same_memory_are_not_writable() -> None:
    weight = torch.randn(5, 5)
    model = Compute(lambda x, w, v: torch.relu(x @ w) @ v, w=weight, v=weight)
    program = captured(model, torch.randn(3, 5))
    program.weights = dict.fromkeys(program.weights, weight)
    assert all(unwritable(program, layer) for node in program.nodes if (layer := layer_of(node)) is not None)


def test_computed_weights_are_not_writable() -> None:
    program = captured(
        Compute(lambda x, w, b: nn.functional.linear(x, w * 2, b + 1), w=torch.randn(4, 5), b=torch.randn(4)),
        torch.randn(3, 5),
    )
    assert unwritable(program, found(program)) == "its weight is computed in the graph"
    assert bias_unwritable(program, found(program)) == "its bias is computed in the graph"


def test_a_shared_bias_is_replaced_for_one_layer_only() -> None:
    def function(x: Tensor, w: Tensor, v: Tensor, b: Tensor) -> Tensor:
        return nn.functional.linear(x, w, b) + nn.functional.linear(x, v, b)

    model = Compute(function, w=torch.randn(4, 5), v=torch.randn(4, 5), b=torch.randn(4))
    x = torch.randn(3, 5)
    program = captured(model, x)
    layer = next(layer for node in program.nodes if (layer := layer_of(node)) is not None)
    (before,) = program.run([x])
    add_to_bias(program, layer, torch.ones(1, 4, dtype=torch.float64))
    program.changed()
    torch.testing.assert_close(program.run([x])[0], before + 1)
