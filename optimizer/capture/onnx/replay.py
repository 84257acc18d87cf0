"""Running an ONNX graph node by node as torch functions, eagerly or under torch.export."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch.fx.traceback import annotate

from tersor.capture.onnx import opaque
from tersor.capture.onnx.dtypes import TORCH_DTYPES
from tersor.capture.onnx.graph import Graph, label
from tersor.capture.onnx.nodes import dead_after, node_of, unique
from tersor.capture.onnx.opaque import OutputType
from tersor.capture.onnx.regions import Step, names_in, steps_of
from tersor.capture.onnx.registry import Node, find
from tersor.capture.onnx.tensors import embeddable, read_tensor
from tersor.capture.onnx.values import Host, Opaque, Value, tensor
from tersor.errors import CaptureError

HOST_ITEMS = 64
"""Constants of at most so many items enter the replay as Python numbers."""


@dataclass
class Record:
    """What is learnt while the graph runs. (torch.export resets the plain containers of a module, so it has a class.)

    Attributes:
        opaque: the nodes that ONNX Runtime runs, by number of their step.
        types: dtype and rank of every value seen so far.
        settled: whether the graph has run to its end once; from then on no buffers are added.
    """

    opaque: dict[int, opaque.OpaqueNode] = field(default_factory=dict)
    types: dict[str, OutputType] = field(default_factory=dict)
    settled: bool = False


class Replay(torch.nn.Module):
    """The graph as a module: ``forward`` takes the graph's inputs in order and returns its outputs as a tuple.

    Constants are buffers. Run it once on real inputs before exporting it: this decides which nodes are opaque,
    what type their outputs have, and which small constants are needed as tensors.

    Attributes:
        buffer_names: ONNX name of a constant -> name of its buffer.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.buffer_names: dict[str, str] = {}
        self.record = Record()
        self._steps = steps_of(graph)
        self._nodes = [node_of(step, graph.opsets) for step in self._steps]
        self._labels = unique([label(step.nodes[0]) for step in self._steps])
        self._dead = dead_after(self._steps, [value.name for value in graph.outputs])
        self._known: dict[str, Host] = {}
        self._small: dict[str, torch.Tensor] = {}
        wanted = names_in(self._steps) | {value.name for value in graph.outputs}
        for name, proto in graph.constants.items():
            if name in wanted:
                self._add_constant(name, proto)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Outputs in the order of the graph."""
        values: dict[str, Value | None] = dict(zip((v.name for v in self.graph.inputs), inputs, strict=True))
        for index, step in enumerate(self._steps):
            with annotate({"onnx": self._labels[index]}):
                results = self._run(index, step, values)
            for name, value in zip(step.outputs, results, strict=False):
                if name and value is not None:
                    values[name] = value
                    self._observe(name, value)
            for name in self._dead[index]:
                values.pop(name, None)
        outputs = tuple(self._tensor(value.name, values) for value in self.graph.outputs)
        self.record.settled = True
        return outputs

    @property
    def opaque_nodes(self) -> dict[str, opaque.OpaqueNode]:
        """The nodes that ONNX Runtime runs, by key."""
        return {node.key: node for node in self.record.opaque.values()}

    def _run(self, index: int, step: Step, values: dict[str, Value | None]) -> Sequence[Value | None]:
        node = self._nodes[index]
        if index in self.record.opaque or node is None:
            return self._run_opaque(index, step, values, step.reason)
        try:
            known = self._run_host(node, values)
            return known if known is not None else self._run_tensor(node, values)
        except Opaque as why:
            return self._run_opaque(index, step, values, str(why))
        except Exception as error:  # whatever a function does not understand is left to ONNX Runtime
            return self._run_opaque(index, step, values, f"{type(error).__name__}: {error}")

    def _run_host(self, node: Node, values: dict[str, Value | None]) -> Sequence[Value | None] | None:
        inputs = [self._value(name, values) for name in node.inputs]
        entry = find(node.domain, node.op_type, node.version, host=True)
        if entry is None or any(value is not None and not isinstance(value, Host) for value in inputs):
            return None
        try:
            return _as_tuple(entry.function(node, *inputs))
        except Exception:  # the tensor function, or ONNX Runtime, decides
            return None

    def _run_tensor(self, node: Node, values: dict[str, Value | None]) -> Sequence[Value | None]:
        entry = find(node.domain, node.op_type, node.version)
        if entry is None:
            raise Opaque(f"{node.domain + '.' if node.domain else ''}{node.op_type} has no torch function")
        inputs: list[Any] = []
        for position, name in enumerate(node.inputs):
            static = position in entry.static
            inputs.append(None if not name else self._value(name, values) if static else self._tensor(name, values))
        return _as_tuple(entry.function(node, *inputs))

    def _run_opaque(self, index: int, step: Step, values: dict[str, Value | None], reason: str) -> list[torch.Tensor]:
        if index not in self.record.opaque:
            self.record.opaque[index] = self._register(step, reason)
        node = self.record.opaque[index]
        inputs = [self._tensor(name, values) for name in node.inputs]
        results = torch.ops.tersor.opaque(inputs, node.key)
        self.record.opaque[index] = opaque.opaque_node(node.key)
        by_name = dict(zip(node.outputs, results, strict=True))
        return [by_name.get(name) for name in step.outputs]  # type: ignore[misc]

    def _register(self, step: Step, reason: str) -> opaque.OpaqueNode:
        constants = self.graph.constants
        embedded = [
            name for name in step.inputs if name in constants and (name in self._known or name not in self.buffer_names)
        ]
        outputs = [name for name in step.outputs if name]
        types = [self.record.types[name] for name in outputs if name in self.record.types]
        return opaque.register(
            step.nodes,
            [name for name in step.inputs if name not in embedded],
            outputs,
            self.graph.opsets,
            self.graph.ir_version,
            self.graph.functions,
            [embeddable(constants[name], name, self.graph.base) for name in embedded],
            types if len(types) == len(outputs) else (),
            reason,
        )

    def _value(self, name: str, values: dict[str, Value | None]) -> Value | None:
        if not name:
            return None
        if name in self._known:
            return self._known[name]
        return getattr(self, self.buffer_names[name]) if name in self.buffer_names else values[name]

    def _tensor(self, name: str, values: dict[str, Value | None]) -> torch.Tensor:
        if name in self._small and not self.record.settled:
            self._add_buffer(name, self._small.pop(name))
        value = getattr(self, self.buffer_names[name]) if name in self.buffer_names else self._value(name, values)
        if value is None:
            raise CaptureError(f"'{name}' is used but its producer left it out")
        return tensor(value)

    def _observe(self, name: str, value: Value) -> None:
        rank = value.array.ndim if isinstance(value, Host) else value.dim()
        self.record.types[name] = (value.dtype, rank)

    def _add_constant(self, name: str, proto: TensorProto) -> None:
        if proto.data_type not in TORCH_DTYPES:
            return
        value = read_tensor(proto, self.graph.base)
        if value.numel() > HOST_ITEMS or value.is_complex():
            self._add_buffer(name, value)
            return
        self._known[name] = _as_host(value)
        self._small[name] = value

    def _add_buffer(self, name: str, value: torch.Tensor) -> None:
        buffer = re.sub(r"\W", "_", name, flags=re.ASCII)
        if not re.match("[A-Za-z]", buffer) or hasattr(self, buffer):
            buffer = f"constant_{buffer}"
        while buffer in self._buffers:
            buffer = f"{buffer}_{len(self._buffers)}"
        self.buffer_names[name] = buffer
        self.register_buffer(buffer, value)


def _as_host(value: torch.Tensor) -> Host:
    plain = value.float() if value.is_floating_point() and value.dtype.itemsize == 1 else value
    array = np.empty(value.numel(), dtype=object)
    array[:] = plain.reshape(-1).tolist()
    return Host(array.reshape(tuple(value.shape)), value.dtype)


def _as_tuple(results: Value | tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    return results if isinstance(results, tuple) else (results,)
