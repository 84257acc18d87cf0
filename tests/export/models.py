"""Models and checks that the export tests share."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from tersor.capture.torch import capture_module
from tersor.export import to_onnx_model, verify_onnx
from tersor.program import Program

BATCH = torch.export.Dim("batch", min=1)


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


class Each(nn.Module):
    """Several functions of one input, each result an output under the function's name."""

    def __init__(self, functions: dict[str, Callable[..., Any]]) -> None:
        super().__init__()
        self.functions = functions
        self.layers = nn.ModuleList(item for item in functions.values() if isinstance(item, nn.Module))

    def forward(self, x: torch.Tensor) -> Any:
        return {name: function(x) for name, function in self.functions.items()}


def captured(model: nn.Module | Callable[..., Any], *shape: int, dtype: torch.dtype = torch.float32) -> Program:
    """A program of one random input whose first axis is dynamic."""
    torch.manual_seed(0)
    module = model if isinstance(model, nn.Module) else Apply(model)
    return capture_module(module.eval(), (torch.randn(*shape).to(dtype),), ({0: BATCH},))


def exported(program: Program, opset: int | None = None, tolerance: float = 1e-5, **options: Any) -> ir.Model:
    """The ONNX model, compared with the program at two sizes of its dynamic axes."""
    model = to_onnx_model(program, opset, **options)
    for difference in verify_onnx(program, model):
        assert difference.absolute <= tolerance * max(1.0, difference.scale), difference
    return model


def operators(model: ir.Model) -> Counter[str]:
    """How many of each operator."""
    return Counter(node.op_type for node in model.graph)


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
