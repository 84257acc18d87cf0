"""CUDA graphs of an engine: the launches of one run, recorded once for each shape and queued as one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tersor.backends._tensorrt_api import IExecutionContext
from tersor.interface import Flat

if TYPE_CHECKING:
    from tersor.backends._tensorrt_engine import Engine

MOST = 4
"""Shapes whose graphs are kept; each holds the memory of one execution context."""

_Shapes = tuple[tuple[int, ...], ...]


@dataclass
class _Recorded:
    """One graph and the memory that it reads and writes; the context is the graph's alone."""

    context: IExecutionContext
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]
    replay: Callable[[], None]


class Graphs:
    """Records from the second call of each shape on, so that what comes once is not recorded."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._recorded: OrderedDict[_Shapes, _Recorded] = OrderedDict()
        self._seen: set[_Shapes] = set()
        self.refused = ""

    def run(self, values: Sequence[torch.Tensor]) -> Flat | None:
        """Outputs of a replay, copied; None where there is no graph of this shape, and the caller runs it."""
        shapes = tuple(tuple(value.shape) for value in values)
        if self.refused or not values:
            return None
        if shapes not in self._recorded:
            if shapes not in self._seen:
                self._seen.add(shapes)
                return None
            if not self._record(shapes, values):
                return None
        self._recorded.move_to_end(shapes)
        return self._replay(self._recorded[shapes], values)

    def _replay(self, found: _Recorded, values: Sequence[torch.Tensor]) -> Flat:
        with self._engine.device.stream():
            for held, value in zip(found.inputs, values, strict=True):
                held.copy_(value)
            found.replay()
            made = [value.clone() for value in found.outputs]
        return tuple(made)

    def _record(self, shapes: _Shapes, values: Sequence[torch.Tensor]) -> bool:
        """Record a graph of this shape; remembers the reason where the engine does not allow it."""
        engine = self._engine
        context = engine.new_context(engine.profile(values))
        held = [value.clone() for value in values]
        engine.bind(context, held)
        made, open_ones = engine.bind_outputs(context)
        if open_ones:
            self.refused = f"the shape of {next(iter(open_ones))!r} is computed"
            return False
        with engine.device.stream() as stream:
            engine.launch(context, stream)  # TensorRT allocates on the first run of a shape, which no graph may
        engine.device.wait()
        try:
            replay = engine.device.capture(lambda stream: engine.launch(context, stream))
        except RuntimeError as error:
            self.refused = " ".join(str(error).split())[:200]
            return False
        outputs = [made[port.name] for port in engine.outputs]
        self._recorded[shapes] = _Recorded(context, held, outputs, replay)
        if len(self._recorded) > MOST:
            self._recorded.popitem(last=False)
        return True
