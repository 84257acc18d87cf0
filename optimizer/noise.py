"""How far rounding alone moves a program's outputs.

Floating-point programs are run in double precision. Programs with quantized activations jump by a level where a value
lies near the border of two: they are run with such values moved by a ten-thousandth of a step, to either side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from tersor.check import ROUNDING
from tersor.program import Program
from tersor.quant.grid import spread
from tersor.rewrite_values import key

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


def rounding(
    program: Program, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor], *, elsewhere: bool = False
) -> list[float]:
    """How far rounding moves each of ``outputs``, the program's own results for these inputs.

    The largest difference to a double-precision run; with ``elsewhere`` also to runs whose every result is off by a
    rounding error, at random and all to one side, for what computes each operator in another way: where errors are
    amplified, one run does not show how far they reach. 0 where the difference has no meaning: integer outputs, or a
    graph that does not run in double precision.
    """
    if any(key(node) in QUANTIZERS for node in program.nodes):
        return _jumps(program, inputs, outputs)
    try:
        with torch.no_grad():
            runs = [_Double(program).run(*[_widened(value) for value in inputs])]
            if elsewhere:
                errors = [*map(_at_random, range(RUNS)), _to_one_side]
                runs += [_Off(program, error).run(*inputs) for error in errors]
    except Exception:
        return [0.0] * len(outputs)
    return [max(_distance(a, run[place]) for run in runs) for place, a in enumerate(outputs)]


class _Off(fx.Interpreter):
    """Runs a graph with every result moved by ``error``, in units in the last place."""

    def __init__(self, program: Program, error: Callable[[torch.Tensor], Any]) -> None:
        super().__init__(program.module(), garbage_collect_values=True)
        self.error = error

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The operator, and the error."""
        return fx.node.map_aggregate(super().call_function(target, args, kwargs), self._moved)

    def _moved(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        return value * (1 + self.error(value) * torch.finfo(value.dtype).eps)


def _at_random(seed: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Up to half a unit to either side, as correct rounding errs."""
    generator = torch.Generator().manual_seed(seed)
    return lambda value: torch.rand(value.shape, generator=generator, dtype=value.dtype) - 0.5


def _to_one_side(value: torch.Tensor) -> float:
    """One unit up, as an approximation may be throughout: errors at random cancel in sums, these do not."""
    return 1.0


QUANTIZERS = tuple(f"quantized_decomposed::quantize_per_{part}" for part in ("tensor", "channel", "token"))
STEP = 1e-4
"""Share of a step by which other kernels' sums may differ from ours: they multiply, round and add in another order."""
RUNS = 3
DRAWS = 1_000_003
"""A prime, so that what repeats does not fall in step with rows or channels."""
JUMPS = 2.0
"""So many times the largest jump that was seen is allowed; `ROUNDING` times a rounding error, which is smooth."""


class _Shaken(fx.Interpreter):
    """Runs a graph with every value moved by a small share of a step before it is quantized."""

    def __init__(self, program: Program, seed: int) -> None:
        super().__init__(program.module(), garbage_collect_values=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.draws = torch.rand(DRAWS, generator=self.generator) * 2 - 1

    def _shake(self, value: torch.Tensor) -> torch.Tensor:
        """Numbers from -1 to 1 of a value's shape; drawing them anew would take longer than the operators do."""
        count = value.numel()
        first = int(torch.randint(DRAWS, (), generator=self.generator))
        drawn = self.draws.roll(-first).repeat(-(-count // DRAWS))[:count]
        return drawn.reshape(value.shape).to(value.dtype)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The operator, on shaken values where it quantizes."""
        if getattr(target, "_schema", None) is not None and target._schema.name in QUANTIZERS:
            value, scale, *rest = args
            step = torch.as_tensor(scale, dtype=value.dtype)
            if target._schema.name == QUANTIZERS[1]:
                step = spread(step, value, int(rest[1]))
            args = (value + self._shake(value) * (STEP * step), scale, *rest)
        return super().call_function(target, args, kwargs)


def _jumps(program: Program, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> list[float]:
    with torch.no_grad():
        runs = [_Shaken(program, seed).run(*inputs) for seed in range(RUNS)]
    largest = [max(_distance(a, run[place]) for run in runs) for place, a in enumerate(outputs)]
    return [jump * JUMPS / ROUNDING for jump in largest]


def _distance(single: torch.Tensor, double: Any) -> float:
    if not isinstance(double, torch.Tensor) or not single.is_floating_point() or single.shape != double.shape:
        return 0.0
    difference = (single.double() - double).abs()
    difference = difference[torch.isfinite(difference)]
    return float(difference.max()) if difference.numel() else 0.0
