"""Operator functions under torch.export with symbolic sizes: they stay symbolic, and other sizes give eager values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import tersor.capture.onnx.operators  # noqa: F401  registers the operator functions
from tersor.capture.onnx.registry import Node, find
from tersor.capture.onnx.values import Host, host

AUTO = torch.export.Dim.DYNAMIC


@dataclass(frozen=True)
class Case:
    """A node with the shape it is traced at and another one; ``axes``: the dynamic ones of the first input.

    ``rest``: the other inputs, tensors or constants.
    """

    name: str
    traced: tuple[int, ...]
    other: tuple[int, ...]
    axes: tuple[int, ...]
    rest: tuple[Any, ...] = ()
    version: int = 22
    domain: str = ""
    attributes: dict[str, Any] | None = None


class OneNode(torch.nn.Module):
    """A node as a module of its first input."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.node = Node(case.name, case.domain, case.version, "", (), ("y",), case.attributes or {})
        entry = find(case.domain, case.name, case.version)
        assert entry is not None
        self.function: Any = entry.function
        self.rest = list(case.rest)
        for index, value in enumerate(self.rest):
            if isinstance(value, torch.Tensor):
                self.register_buffer(f"input_{index}", value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rest = [getattr(self, f"input_{i}", value) for i, value in enumerate(self.rest)]
        result = self.function(self.node, x, *rest)
        return result[0] if isinstance(result, tuple) else result


def floats(items: list[float]) -> Host:
    return host([float(np.float32(i)) for i in items], torch.float32)


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


IMAGE: dict[str, Any] = {"traced": (2, 4, 9, 12), "other": (3, 4, 14, 7), "axes": (0, 2, 3)}
SAME: dict[str, Any] = {"auto_pad": "SAME_UPPER", "strides": [2, 3]}
POOL: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
CASES = {
    "conv same": Case("Conv", **IMAGE, rest=(weight(6, 4, 3, 4), weight(6)), attributes=SAME),
    "conv same lower": Case("Conv", **IMAGE, rest=(weight(6, 4, 2, 3),), attributes=SAME | {"auto_pad": "SAME_LOWER"}),
    "conv asymmetric": Case("Conv", **IMAGE, rest=(weight(6, 4, 3, 3),), attributes={"pads": [0, 1, 2, 1]}),
    "conv transpose same": Case("ConvTranspose", **IMAGE, rest=(weight(4, 2, 3, 4),), attributes=SAME),
    "max pool ceil": Case("MaxPool", **IMAGE, attributes=POOL | {"pads": [1, 1, 1, 1]}),
    "max pool ceil asymmetric": Case("MaxPool", **IMAGE, attributes=POOL | {"pads": [0, 1, 2, 1]}),
    "average pool ceil": Case("AveragePool", **IMAGE, attributes=POOL | {"pads": [1, 1, 1, 1]}),
    "average pool ceil asymmetric": Case("AveragePool", **IMAGE, attributes=POOL | {"pads": [0, 1, 2, 1]}),
    "average pool same": Case("AveragePool", **IMAGE, attributes={"kernel_shape": [3, 3]} | SAME),
    "lp pool": Case("LpPool", **IMAGE, attributes=POOL),
    "global average pool": Case("GlobalAveragePool", **IMAGE),
    "resize doubled": Case(
        "Resize", **IMAGE, rest=(None, floats([1, 1, 2, 2])),
        attributes={"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    "resize linear": Case("Resize", **IMAGE, rest=(None, floats([1, 1, 1.5, 0.7])), attributes={"mode": "linear"}),
    "resize nearest": Case("Resize", **IMAGE, rest=(None, floats([1, 1, 1.5, 0.7])), attributes={"mode": "nearest"}),
    "resize cubic": Case(
        "Resize", **IMAGE, rest=(None, None, host([20, 30])),
        attributes={"mode": "cubic", "coordinate_transformation_mode": "align_corners", "axes": [2, 3]},
    ),
    "upsample": Case("Upsample", **IMAGE, rest=(floats([1, 1, 2, 2]),), version=9, attributes={"mode": "linear"}),
    "gemm": Case("Gemm", (3, 8), (5, 8), (0,), rest=(weight(8, 6), weight(6))),
    "layer normalization": Case("LayerNormalization", (2, 5, 8), (3, 4, 8), (0, 1), rest=(weight(8), weight(8))),
    "group normalization": Case(
        "GroupNormalization", **IMAGE, rest=(weight(4), weight(4)), attributes={"num_groups": 2}
    ),
    "local response": Case("LRN", **IMAGE, attributes={"size": 4}),
    "softmax flattened": Case("Softmax", (2, 5, 8), (3, 4, 8), (0, 1), version=11, attributes={"axis": 1}),
    "reduce mean": Case("ReduceMean", (2, 5, 8), (3, 4, 8), (0, 1), rest=(host([-1, 1]),)),
    "attention": Case(
        "Attention", (2, 4, 6, 8), (2, 4, 5, 8), (2,), version=23, attributes={"is_causal": 1},
        rest=(weight(1, 2, 7, 8).expand(2, 2, 7, 8), weight(1, 2, 7, 8).expand(2, 2, 7, 8)),
    ),
    "quantize": Case("QuantizeLinear", (2, 5, 8), (3, 4, 8), (0, 1), rest=(floats([0.1]), host([3], torch.uint8))),
    "short-time transform": Case("STFT", (2, 32, 1), (3, 45, 1), (0, 1), rest=(host(4), weight(8), host(8))),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_exports_with_symbolic_sizes(name: str) -> None:
    case = CASES[name]
    module = OneNode(case)
    torch.manual_seed(1)
    dynamic = dict.fromkeys(case.axes, AUTO)
    exported = torch.export.export(module, (torch.randn(case.traced),), dynamic_shapes=(dynamic,))
    symbolic = next(n for n in exported.graph.nodes if n.name == "x").meta["val"].shape
    assert all(isinstance(symbolic[axis], torch.SymInt) for axis in case.axes)
    for shape in (case.traced, case.other):
        x = torch.randn(shape)
        torch.testing.assert_close(exported.module()(x), module(x))
