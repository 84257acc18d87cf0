"""What is chosen for quantization, and which readers get quantized values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tersor.errors import UsageError
from tersor.program import Program
from tersor.quant.placement import RULES, Rules, rules
from tersor.quant.plan import Layer, candidates, plan
from tersor.rewrite_values import key
from tersor.target import Target
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


def found(program: Program, table: Rules = TABLE) -> list[Layer]:
    return [layer for _, layer in candidates(program, table) if isinstance(layer, Layer)]


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
        "a product of two activations: quantizing both costs more than integers save",
        "its weight or bias is computed in the graph", "its weight is not finite", "it computes in torch.float64",
    ]  # fmt: skip


class Branches(nn.Module):
    """Two convolutions side by side, concatenated in front of a third."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(12, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cat([self.left(x).relu(), self.right(x)], 1))


@pytest.mark.parametrize(("backend", "roots"), [("onnxruntime", 3), ("openvino", 1), ("tensorrt", 1)])
def test_branches_share_a_scale_where_the_backend_needs_it(backend: str, roots: int) -> None:
    program, table = captured(Branches(), torch.rand(2, 3, 4, 4)), rules(backend)
    made = plan(found(program, table), table)
    shared = {node.name: root.name for node, root in made.tensors.items()}
    assert {"relu", "conv2d_1", "cat"} <= {node.name for node in made.whole}
    assert len({shared[name] for name in ("relu", "conv2d_1", "cat")}) == roots


def test_the_other_operand_of_a_residual_is_quantized_for_the_kernel_that_adds_it() -> None:
    program, table = captured(Residual(), torch.rand(2, 3, 10, 10)), rules("tensorrt")
    made = plan(found(program, table), table)
    assert "add" in {key(node) for node in made.readers}
    assert "add" not in {key(node) for node in plan(found(program), TABLE).readers}
    assert {node.name for node in made.tensors} >= {"x", "max_pool2d", "relu_1"}
    assert not made.whole & set(made.layers), "a result that floating point reads too is not rounded for it"


def test_the_table_of_a_target() -> None:
    assert rules("auto", Target("cuda", "cuda")) is RULES["tensorrt"]
    assert rules("auto", Target("cpu")) is rules("auto") is RULES["onnxruntime"]
    assert rules("auto", Target("cpu"), "openvino") is RULES["openvino"], "what the program is made for"
    assert rules("auto", Target("cpu"), "inductor") is RULES["onnxruntime"], "which has no table"
    assert RULES["tensorrt"].symmetric and not RULES["tensorrt"].wide_bias
    with pytest.raises(UsageError, match="did you mean 'openvino'"):
        rules("openvinoo")
