"""What is chosen for quantization, and which readers get quantized values."""

from __future__ import annotations

import torch
from torch import nn

from tersor.program import Program
from tersor.quant.placement import rules
from tersor.quant.plan import Layer, candidates, plan
from tests.passes.harness import captured

TABLE = rules("onnxruntime")


class Residual(nn.Module):
    """conv - relu - maxpool - conv, added to a shortcut; then a pooled linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.short = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.next, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = nn.functional.max_pool2d(self.stem(x).relu(), 2)
        h = (self.inner(h) + self.short(h)).relu()
        return self.head(torch.sigmoid(self.next(h)).mean((2, 3)))


def found(program: Program) -> list[Layer]:
    return [layer for _, layer in candidates(program, TABLE) if isinstance(layer, Layer)]


def test_tensors_and_their_readers() -> None:
    program = captured(Residual().eval(), torch.rand(2, 3, 10, 10))
    layers = found(program)
    assert [layer.node.name for layer in layers] == ["conv2d", "conv2d_1", "conv2d_2", "conv2d_3", "linear"]
    made = plan(layers, TABLE)
    shared = {node.name: root.name for node, root in made.tensors.items()}
    assert shared == {
        "x": "x", "relu": "relu", "max_pool2d": "relu", "conv2d_1": "conv2d_1", "conv2d_2": "conv2d_2",
        "relu_1": "relu_1", "conv2d_3": "conv2d_3", "mean": "mean",
    }  # fmt: skip
    whole = {node.name for node in made.whole}
    assert whole == {"relu", "max_pool2d", "conv2d_1", "conv2d_2", "relu_1", "conv2d_3"}


def test_a_layer_left_out_leaves_its_tensors_as_they_are() -> None:
    program = captured(Residual().eval(), torch.rand(2, 3, 10, 10))
    layers = [layer for layer in found(program) if layer.node.name in ("conv2d_1", "linear")]
    made = plan(layers, TABLE)
    assert {node.name for node in made.tensors} == {"max_pool2d", "conv2d_1", "mean"}
    assert {node.name for node in made.whole} == {"conv2d_1"}


def test_reasons() -> None:
    class Odd(nn.Module):
        broken: torch.Tensor
        precise: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("broken", torch.full((4, 4), float("nan")))
            self.register_buffer("precise", torch.randn(4, 4, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            linear = nn.functional.linear
            return linear(x, x[:1].mT @ x[:1]), linear(x, self.broken), linear(x.double(), self.precise)

    reasons = [layer for _, layer in candidates(captured(Odd().eval(), torch.rand(2, 4)), TABLE)]
    assert reasons == [
        "its weight or bias is computed in the graph", "its weight is not finite", "it computes in torch.float64",
    ]  # fmt: skip
