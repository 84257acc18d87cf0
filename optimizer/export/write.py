"""Writing ONNX models: atomically, and without a second copy of the weights in memory."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir
import torch

from tersor.errors import ExportError, OutputError

PROTOBUF_LIMIT = 2**31 - 2**20
"""Bytes that one protobuf message may hold, with a margin; larger models get a second file for their weights."""

_STREAMED = 4096
"""Initializers of at least so many bytes are written piece by piece; smaller ones with the graph."""

_ALIGNMENT = 4096
"""External tensors start at multiples of this, so that runtimes can map them."""

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9


def write_model(model: ir.Model, path: Path, external_data: bool | None = None) -> list[Path]:
    """Write a model under a temporary name beside ``path`` and rename it when complete.

    Args:
        model: unchanged afterwards.
        path: an existing file is replaced; ``<name>.data`` holds the weights where they are external.
        external_data: None keeps the weights in the file where protobuf can hold them.

    Returns:
        The files written, the model first.

    Raises:
        OutputError: the path cannot be written.
    """
    check_destination(path)
    check_model(model)
    data = path.with_name(f"{path.name}.data")
    with _temporary(path) as folder:
        made, made_data = folder / path.name, folder / data.name
        if external_data or (external_data is None and encoded_size(model) > PROTOBUF_LIMIT):
            _write_external(model, made, made_data)
        else:
            with made.open("wb") as file:
                write_stream(model, file)
        moved = [(made_data, data), (made, path)] if made_data.exists() else [(made, path)]
        for source, destination in moved:
            source.replace(destination)
    return [path, data] if len(moved) == 2 else [path]


def check_model(model: ir.Model) -> None:
    """Run onnx.checker with shape inference; raises ExportError.

    Large weights are shown to it as inputs of their type and shape: it has nothing to say of their values, and would
    hold two more copies of them.
    """
    large = _large(model)
    proto = _without(model, large)
    for value, tensor in large:
        shape = [int(size) for size in tensor.shape]  # type: ignore[arg-type]
        proto.graph.input.append(onnx.helper.make_tensor_value_info(str(value.name), int(tensor.dtype), shape))
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the exported model is not valid ONNX: {' '.join(str(error).split())[:400]}",
            "report this with the model; another opset may avoid it",
        ) from error


def check_destination(path: Path) -> None:
    """Raise OutputError where a file of this name cannot be made."""
    if path.is_dir():
        raise OutputError(f"the output path '{path}' is a folder", "give the name of a file in it")
    if not path.parent.is_dir():
        raise OutputError(f"the folder '{path.parent}' does not exist", "make it, or give another output path")


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise OutputError(
            f"'{path}' cannot be written: {error.strerror or error}", "give a writable path with enough space"
        ) from error


def to_bytes(model: ir.Model) -> bytes:
    """The model as one protobuf message; raises OutputError where it is too large for that."""
    if encoded_size(model) > PROTOBUF_LIMIT:
        raise OutputError("the model is larger than one protobuf message may be", "write it with external data")
    buffer = io.BytesIO()
    write_stream(model, buffer)
    return buffer.getvalue()


def encoded_size(model: ir.Model) -> int:
    """Bytes of the model as one protobuf message, nearly."""
    return sum(_size(tensor) + 256 for _, tensor in _large(model)) + 2**16


def write_stream(model: ir.Model, file: BinaryIO) -> None:
    """Write the model as one protobuf message, one tensor in memory at a time."""
    large = _large(model)
    proto = _without(model, large)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    heads = [_head(value, tensor) for value, tensor in large]
    lengths = [
        len(head) + _field_size(_RAW_DATA, _size(tensor)) for head, (_, tensor) in zip(heads, large, strict=True)
    ]
    total = len(graph) + sum(_field_size(_INITIALIZER, length) for length in lengths)
    file.write(proto.SerializeToString())
    file.write(_field(_GRAPH, total) + graph)
    for head, length, (_, tensor) in zip(heads, lengths, large, strict=True):
        file.write(_field(_INITIALIZER, length) + head + _field(_RAW_DATA, _size(tensor)))
        file.write(_content(tensor))


def _write_external(model: ir.Model, path: Path, data: Path) -> None:
    large = _large(model)
    proto = _without(model, large)
    with data.open("wb") as file:
        for value, tensor in large:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            made = proto.graph.initializer.add()
            made.ParseFromString(_head(value, tensor))
            made.data_location = onnx.TensorProto.EXTERNAL
            for key, entry in (("location", data.name), ("offset", file.tell()), ("length", _size(tensor))):
                made.external_data.add(key=key, value=str(entry))
            file.write(_content(tensor))
    path.write_bytes(proto.SerializeToString())


Large = list[tuple[ir.Value, ir.TensorProtocol]]


def _large(model: ir.Model) -> Large:
    values = [(value, value.const_value) for value in model.graph.initializers.values()]
    return [
        (value, tensor)
        for value, tensor in values
        if tensor is not None and tensor.dtype != ir.DataType.STRING and _size(tensor) >= _STREAMED
    ]


def _without(model: ir.Model, large: Large) -> onnx.ModelProto:
    initializers = model.graph.initializers
    everything = list(initializers.values())
    try:
        for value, _ in large:
            initializers.pop(str(value.name))
        return ir.to_proto(model)
    finally:
        initializers.clear()
        for value in everything:
            initializers.add(value)


def _head(value: ir.Value, tensor: ir.TensorProtocol) -> bytes:
    dims = [int(size) for size in tensor.shape]  # type: ignore[arg-type]
    return onnx.TensorProto(name=value.name, dims=dims, data_type=int(tensor.dtype)).SerializeToString()


def _size(tensor: ir.TensorProtocol) -> int:
    return int(tensor.nbytes)


def _content(tensor: ir.TensorProtocol) -> bytes | memoryview:
    raw = tensor.raw if isinstance(tensor, ir.Tensor) else None
    if isinstance(raw, torch.Tensor) and raw.numel() and raw.dtype.itemsize * raw.numel() == _size(tensor):
        return raw.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return tensor.tobytes()


def _field(number: int, length: int) -> bytes:
    """Tag and length of a length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(length)


def _field_size(number: int, length: int) -> int:
    return len(_field(number, length)) + length


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first.

    >>> _varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
