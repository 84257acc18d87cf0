"""The simulated error is that of the edited program, and a broken layer is the one that is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tersor.program import Program
from tersor.quant.dynamic import DynamicRounding
from tersor.quant.fallback import partly_quantized
from tersor.quant.grid import grid
from tersor.quant.placement import rules
from tersor.quant.plan import Layer, candidates
from tersor.quant.simulate import attribute, error
from tersor.quant.static import Prepared, prepare
from tests.passes.harness import captured


class Net(nn.Module):
    """A residual of convolutions and two linear layers, one of which can be broken without a change in floating point.

    Hidden unit 0 never fires; a huge weight on it makes the steps of every output of ``back`` as large as its values.
    """

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.front, self.back = nn.Linear(8, 24), nn.Linear(24, 6)
        with torch.no_grad():
            self.front.weight[0], self.front.bias[0] = 0.0, -1.0
            self.back.weight[:, 0] = 1e4 if broken else 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(x).relu()
        h = (h + self.body(h)).relu().mean((2, 3))
        return self.back(self.front(h).relu())


def ready(broken: bool, backend: str = "onnxruntime") -> tuple[Program, Prepared]:
    torch.manual_seed(0)
    x, table = torch.rand(4, 3, 8, 8), rules(backend)
    program = captured(Net(broken), x)
    layers = [layer for _, layer in candidates(program, table) if isinstance(layer, Layer)]
    formats = grid("int8"), grid(table.activations)
    return program, prepare(program, layers, table, formats, "mse", "nearest", [(x,)], 0)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "tensorrt"])
def test_the_simulation_is_the_edited_program_but_for_the_correction_of_biases(backend: str) -> None:
    program, made = ready(False, backend)
    for item in made.own.values():
        item.shift.zero_()
    (wanted,) = program.run(program.inputs)
    (got,) = partly_quantized(made.program, made.layers, made.put).run(program.inputs)
    simulated = error(program, made.rounding, made.layers, [program.inputs], [(wanted,)])
    real = float((got - wanted).double().square().sum() / wanted.double().square().sum())
    assert simulated == pytest.approx(real, rel=0.02)


def test_errors_of_layers_are_told_apart() -> None:
    program, made = ready(True)
    found = attribute(program, made.rounding, made.layers, program.inputs)
    assert max(found.alone, key=lambda name: found.alone[name]) == "linear_1"
    assert found.alone["linear_1"] > 20 * max(found.alone[name] for name in ("conv2d", "conv2d_1", "linear"))
    assert found.together["linear"] < 0.01 < found.together["linear_1"]
    assert found.local["linear_1"] == pytest.approx(found.together["linear_1"])


def test_only_those_with_the_largest_errors_of_their_own_are_looked_at() -> None:
    program, made = ready(True)
    found = attribute(program, made.rounding, made.layers, program.inputs, most=1)
    assert list(found.alone) == list(found.together) == ["linear_1"] and len(found.local) == 4


def test_what_is_quantized_while_the_model_runs_is_rounded_by_its_own_range() -> None:
    value = torch.tensor([[-1.0, 0.0, 3.0], [-0.1, 0.0, 0.3]])
    steps = (value - DynamicRounding({}, "tensor").activation("", value)).abs().amax(1)
    rows = (value - DynamicRounding({}, "token").activation("", value)).abs().amax(1)
    assert float(steps.max()) <= 4 / 255 / 2 + 1e-6
    assert float(rows[1]) <= 0.4 / 255 / 2 + 1e-6
