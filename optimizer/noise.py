"""How far rounding alone moves a program's outputs: its single-precision run against a double-precision one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from tersor.program import Program

_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}


class _Double(fx.Interpreter):
    """Runs a graph with every single-precision value in double precision; weights are widened one at a time."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.module(), garbage_collect_values=True)
        self.weights = program.weights

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The weight, widened."""
        return _widened(self.weights[str(target)])

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The operator, with dtype arguments widened too."""
        return super().call_function(target, *fx.node.map_aggregate((args, kwargs), _widened))


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype in _WIDER:
        return value.to(_WIDER[value.dtype])
    return _WIDER.get(value, value) if isinstance(value, torch.dtype) else value


def rounding(program: Program, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> list[float]:
    """Largest difference per output between ``outputs`` and a double-precision run on the same inputs.

    0 where the difference has no meaning: integer outputs, or a graph that does not run in double precision.
    """
    try:
        with torch.no_grad():
            precise = _Double(program).run(*[_widened(value) for value in inputs])
    except Exception:
        return [0.0] * len(outputs)
    return [_distance(a, b) for a, b in zip(outputs, precise, strict=True)]


def _distance(single: torch.Tensor, double: Any) -> float:
    if not isinstance(double, torch.Tensor) or not single.is_floating_point() or single.shape != double.shape:
        return 0.0
    difference = (single.double() - double).abs()
    difference = difference[torch.isfinite(difference)]
    return float(difference.max()) if difference.numel() else 0.0
