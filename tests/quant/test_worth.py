"""Where converting numbers costs more than integers save, and where the estimate sees nothing to convert."""

from __future__ import annotations

import torch
from torch import nn

from tersor.program import Program
from tersor.quant.placement import Rules, rules
from tersor.quant.plan import Layer, candidates, plan
from tersor.quant.worth import balance, conversions, multiply_adds, paying
from tests.passes.harness import captured

ORT = rules("onnxruntime")


def layers(program: Program, table: Rules = ORT) -> list[Layer]:
    return [layer for _, layer in candidates(program, table) if isinstance(layer, Layer)]


def test_only_the_ends_of_a_row_are_converted() -> None:
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3))
    found = layers(captured(net, torch.rand(2, 4, 12, 12)))
    assert conversions(plan(found, ORT), ORT) == 2 * 4 * 12 * 12 + 2 * 6 * 3 * 3
    assert [multiply_adds(layer) for layer in found] == [2 * 8 * 100 * 36, 2 * 6 * 9 * 72]


def test_an_activation_that_no_kernel_has_is_converted_on_both_sides() -> None:
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Hardswish(), nn.Conv2d(8, 6, 3))
    program = captured(net, torch.rand(2, 4, 12, 12))
    ends = 2 * 4 * 144 + 2 * 6 * 64
    assert conversions(plan(layers(program), ORT), ORT) == ends + 2 * 2 * 8 * 100
    table = rules("openvino")
    assert conversions(plan(layers(program, table), table), table) == 2 * 4 * 144


def test_small_and_depthwise_layers_alone_are_left_out_and_wide_ones_stay() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.narrow, self.depth = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 64, 1, groups=8)
            self.deep, self.wide = nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.Conv2d(64, 64, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            swish = nn.functional.hardswish
            x = swish(self.depth(swish(self.narrow(x))))
            return self.wide(swish(self.deep(x)))

    found = layers(captured(Net(), torch.rand(2, 8, 8, 8)))
    stay, reasons = paying(found, ORT)
    assert [layer.node.name for layer in stay] == ["conv2d_3"]
    assert {layer.node.name for layer in reasons} == {"conv2d", "conv2d_1", "conv2d_2"}
    assert all("costs more than integers save" in reason for reason in reasons.values())
    assert balance(stay, ORT) > balance(found, ORT)


def test_a_depthwise_layer_between_integer_layers_stays_for_them() -> None:
    net = nn.Sequential(
        nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.ReLU(),
        nn.Conv2d(64, 32, 3, padding=1),
    )  # fmt: skip
    found = layers(captured(net, torch.rand(2, 16, 8, 8)))
    assert paying(found, ORT) == (found, {})


def test_nothing_is_left_out_where_nothing_is_known_of_the_costs() -> None:
    table = rules("tensorrt")
    found = layers(captured(nn.Sequential(nn.Linear(2, 2)), torch.rand(2, 2)), table)
    assert paying(found, table) == (found, {})
