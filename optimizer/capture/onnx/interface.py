"""What a model file says of itself to its callers: inputs, outputs, axis names, metadata; survives every rewrite."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TypeProto, ValueInfoProto

from tersor.capture.onnx.dtypes import TORCH_DTYPES, type_name
from tersor.capture.onnx.files import ModelFile, opsets

Axis = int | str | None
"""A size, the name of a dynamic axis, or None for a dynamic axis without a name."""


@dataclass(frozen=True)
class Port:
    """An input or output of a model.

    Attributes:
        element: ONNX element type; 0 where the value is no tensor.
        shape: its axes, None where even the rank is unknown.
    """

    name: str
    element: int
    shape: tuple[Axis, ...] | None
    doc: str = ""

    @property
    def is_torch(self) -> bool:
        """Whether torch has tensors of this type."""
        return self.element in TORCH_DTYPES

    def __str__(self) -> str:
        kind = type_name(self.element) if self.element else "no tensor"
        axes = "?" if self.shape is None else ", ".join("?" if axis is None else str(axis) for axis in self.shape)
        return f"{self.name}: {kind}[{axes}]"


@dataclass(frozen=True)
class Interface:
    """Names, order, types and metadata of a model file.

    Attributes:
        inputs: in the order of the file, without initializers that older files list as inputs too.
        metadata: the model's ``metadata_props``.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opsets: dict[str, int]
    ir_version: int
    metadata: dict[str, str]
    producer_name: str = ""
    producer_version: str = ""
    domain: str = ""
    model_version: int = 0
    doc: str = ""
    graph_name: str = ""
    graph_doc: str = ""


def interface_of(model: ModelFile) -> Interface:
    """Read the interface of a model."""
    proto = model.proto
    constants = {tensor.name for tensor in proto.graph.initializer}
    constants |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    return Interface(
        inputs=tuple(_port(value) for value in proto.graph.input if value.name not in constants),
        outputs=tuple(_port(value) for value in proto.graph.output),
        opsets=opsets(proto),
        ir_version=proto.ir_version,
        metadata={entry.key: entry.value for entry in proto.metadata_props},
        producer_name=proto.producer_name,
        producer_version=proto.producer_version,
        domain=proto.domain,
        model_version=proto.model_version,
        doc=proto.doc_string,
        graph_name=proto.graph.name,
        graph_doc=proto.graph.doc_string,
    )


def _port(value: ValueInfoProto) -> Port:
    return Port(value.name, *_tensor_type(value.type), doc=value.doc_string)


def _tensor_type(kind: TypeProto) -> tuple[int, tuple[Axis, ...] | None]:
    if not kind.HasField("tensor_type"):
        return 0, None
    shape = kind.tensor_type.shape.dim if kind.tensor_type.HasField("shape") else None
    return kind.tensor_type.elem_type, None if shape is None else tuple(_axis(dim) for dim in shape)


def _axis(dim: onnx.TensorShapeProto.Dimension) -> Axis:
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    return str(dim.dim_param) or None
