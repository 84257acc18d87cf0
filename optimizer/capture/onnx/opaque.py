"""Opaque nodes: ONNX nodes without a torch function, run by ONNX Runtime and kept verbatim for the export."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import FunctionProto, NodeProto, TensorProto, ValueInfoProto

from tersor.capture.onnx.dtypes import LOW_PRECISION, ONNX_DTYPES, TORCH_DTYPES
from tersor.capture.onnx.opaque_shapes import sizes_of
from tersor.errors import CaptureError

OutputType = tuple[torch.dtype, int]


@dataclass(frozen=True)
class OpaqueNode:
    """One node, or a region of nodes with tensors at its boundary, as the file has it.

    Attributes:
        key: hash of the content; the second argument of ``torch.ops.tersor.opaque``.
        nodes: the original nodes in topological order, bodies included.
        inputs: names of the tensors that the call passes, in order: node inputs, then captured outer values.
        outputs: names of the tensors that the call returns, in order.
        initializers: small constants that belong to the nodes and are not passed.
        output_types: dtype and rank of each output; empty until the nodes have run once.
        reason: why there is no torch function.
    """

    key: str
    nodes: tuple[NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset_imports: dict[str, int]
    ir_version: int
    functions: tuple[FunctionProto, ...] = ()
    initializers: tuple[TensorProto, ...] = ()
    output_types: tuple[OutputType, ...] = field(default=())
    reason: str = ""

    def model(self, inputs: Iterable[ValueInfoProto], outputs: Iterable[ValueInfoProto] = ()) -> onnx.ModelProto:
        """A model of these nodes alone, with the given types of its inputs and outputs."""
        proto = onnx.ModelProto(ir_version=max(self.ir_version, 4))
        proto.opset_import.extend(onnx.helper.make_opsetid(d, v) for d, v in self.opset_imports.items())
        proto.functions.extend(self.functions)
        proto.graph.name = "opaque"
        proto.graph.node.extend(self.nodes)
        proto.graph.initializer.extend(self.initializers)
        proto.graph.input.extend(inputs)
        proto.graph.output.extend(outputs or (ValueInfoProto(name=name) for name in self.outputs))
        return proto


_NODES: dict[str, OpaqueNode] = {}


def opaque_node(key: str) -> OpaqueNode:
    """The original nodes behind a call of ``torch.ops.tersor.opaque``.

    Raises:
        CaptureError: the graph was loaded in another process than the one that imported the ONNX file.
    """
    if key not in _NODES:
        raise CaptureError(f"the opaque node '{key}' is not known here", "import the ONNX file again")
    return _NODES[key]


def register(
    nodes: Sequence[NodeProto],
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset_imports: dict[str, int],
    ir_version: int,
    functions: Sequence[FunctionProto] = (),
    initializers: Sequence[TensorProto] = (),
    output_types: Sequence[OutputType] = (),
    reason: str = "",
) -> OpaqueNode:
    """Enter nodes into the registry, under a key made of their content."""
    digest = hashlib.sha256(repr((sorted(opset_imports.items()), tuple(inputs), tuple(outputs))).encode())
    protos: list[Any] = [*nodes, *functions, *initializers]
    for proto in protos:
        digest.update(proto.SerializeToString(deterministic=True))
    node = OpaqueNode(
        key=digest.hexdigest()[:24],
        nodes=tuple(nodes),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        opset_imports=dict(opset_imports),
        ir_version=ir_version,
        functions=tuple(functions),
        initializers=tuple(initializers),
        output_types=tuple(output_types),
        reason=reason,
    )
    _NODES[node.key] = node
    return node


@torch.library.custom_op("tersor::opaque", mutates_args=())
def opaque(inputs: list[torch.Tensor], key: str) -> list[torch.Tensor]:
    """Run the opaque node ``key`` in ONNX Runtime; results are new tensors on the device of the first input."""
    node = opaque_node(key)
    session = _session(key, tuple(tensor.dtype for tensor in inputs))
    feeds = {name: to_ort(tensor) for name, tensor in zip(node.inputs, inputs, strict=True)}
    device = inputs[0].device if inputs else torch.device("cpu")
    try:
        results = session.run_with_ort_values(list(node.outputs), feeds)
    except Exception as error:  # ONNX Runtime has a dozen exception classes without a common one
        raise CaptureError(f"ONNX Runtime fails in {_describe(node)}: {error}") from error
    tensors = [from_ort(value).to(device) for value in results]
    if not node.output_types:
        _NODES[key] = replace(node, output_types=tuple((t.dtype, t.dim()) for t in tensors))
    return tensors


@opaque.register_fake
def _fake(inputs: list[torch.Tensor], key: str) -> list[torch.Tensor]:
    node = opaque_node(key)
    symbols: dict[str, torch.SymInt] = {}
    typed = [_value_info(name, tensor, symbols) for name, tensor in zip(node.inputs, inputs, strict=True)]
    inferred = _inferred(node.model(typed))
    known = sizes_of(node.nodes, _shapes(node, inputs), node.opset_imports)
    device = inputs[0].device if inputs else torch.device("cpu")
    results = []
    for index, name in enumerate(node.outputs):
        dtype, dims = _output(node, index, inferred.get(name))
        shape = [_size(dim, symbols) for dim in dims] if known is None else known
        results.append(torch.empty(shape, dtype=dtype, device=device))
    return results


def _shapes(node: OpaqueNode, inputs: list[torch.Tensor]) -> dict[str, Sequence[Any]]:
    shapes: dict[str, Sequence[Any]] = {constant.name: tuple(constant.dims) for constant in node.initializers}
    return shapes | {name: tensor.shape for name, tensor in zip(node.inputs, inputs, strict=True)}


def _output(
    node: OpaqueNode, index: int, inferred: onnx.TypeProto | None
) -> tuple[torch.dtype, list[int | str | None]]:
    """dtype and dimensions of an output: what inference says where it agrees with what was observed."""
    tensor = inferred.tensor_type if inferred is not None and inferred.HasField("tensor_type") else None
    dims: list[int | str | None] | None = None
    if tensor is not None and tensor.HasField("shape"):
        dims = [d.dim_param or (d.dim_value if d.HasField("dim_value") else None) for d in tensor.shape.dim]
    if node.output_types:
        dtype, rank = node.output_types[index]
        return dtype, dims if dims is not None and len(dims) == rank else [None] * rank
    if dims is None or tensor is None or tensor.elem_type not in TORCH_DTYPES:
        raise CaptureError(f"the rank of '{node.outputs[index]}' is not known", "run the model once before exporting")
    return TORCH_DTYPES[tensor.elem_type], dims


def _size(dim: int | str | None, symbols: dict[str, torch.SymInt]) -> int | torch.SymInt:
    if isinstance(dim, int):
        return dim
    if isinstance(dim, str) and dim in symbols:
        return symbols[dim]
    return torch.library.get_ctx().new_dynamic_size()


def _inferred(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True).graph
    except Exception:  # domains without schemas, bodies that inference does not understand
        return {}
    return {value.name: value.type for value in graph.output}


def _value_info(name: str, tensor: torch.Tensor, symbols: dict[str, torch.SymInt] | None = None) -> ValueInfoProto:
    if symbols is None:
        return onnx.helper.make_tensor_value_info(name, ONNX_DTYPES[tensor.dtype], None)
    dims: list[int | str] = []
    for size in tensor.shape:
        if isinstance(size, int):
            dims.append(size)
        else:
            dims.append(f"<{size}>")
            symbols[f"<{size}>"] = size
    return onnx.helper.make_tensor_value_info(name, ONNX_DTYPES[tensor.dtype], dims)


@lru_cache(maxsize=256)
def _session(key: str, dtypes: tuple[torch.dtype, ...]) -> onnxruntime.InferenceSession:
    node = opaque_node(key)
    typed = [
        onnx.helper.make_tensor_value_info(name, ONNX_DTYPES[dtype], None)
        for name, dtype in zip(node.inputs, dtypes, strict=True)
    ]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(
            node.model(typed).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime has a dozen exception classes without a common one
        raise CaptureError(f"ONNX Runtime cannot load {_describe(node)}: {error}") from error


def _describe(node: OpaqueNode) -> str:
    kinds = ", ".join(dict.fromkeys(proto.op_type for proto in node.nodes))
    return f"the nodes that produce '{', '.join(node.outputs)}' ({kinds})"


def to_ort(tensor: torch.Tensor) -> onnxruntime.OrtValue:
    """The tensor as ONNX Runtime takes it, 8-bit floats and bfloat16 included."""
    source = tensor.detach().cpu().contiguous()
    if source.dtype in LOW_PRECISION:
        bits = source.view(torch.uint16 if source.dtype.itemsize == 2 else torch.uint8)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits.numpy(), ONNX_DTYPES[source.dtype])
    return onnxruntime.OrtValue.ortvalue_from_numpy(source.numpy())


def from_ort(value: onnxruntime.OrtValue) -> torch.Tensor:
    """A copy of a tensor of ONNX Runtime."""
    dtype = TORCH_DTYPES[value.element_type()]
    size = value.tensor_size_in_bytes()
    if not size:
        return torch.empty(value.shape(), dtype=dtype)
    # Neither numpy nor DLPack can carry 8-bit floats and bfloat16 out of ONNX Runtime, so the bytes are copied.
    data = bytearray(ctypes.string_at(value.data_ptr(), size))
    return torch.frombuffer(data, dtype=dtype).reshape(value.shape())
