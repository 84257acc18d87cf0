"""Reading tensors of an ONNX file, inside the protobuf or in an external file, as torch tensors."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper

from tersor.capture.onnx.dtypes import LOW_PRECISION, TORCH_DTYPES, is_defined, type_name
from tersor.errors import ModelFileError

_RAW_VIEWS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.complex128}


def is_external(proto: TensorProto) -> bool:
    """Whether the data lies in another file."""
    return proto.data_location == TensorProto.EXTERNAL


def item_count(proto: TensorProto) -> int:
    """How many items the tensor holds by its dimensions."""
    return math.prod(proto.dims)


def read_tensor(proto: TensorProto, base: Path | None) -> torch.Tensor:
    """The tensor, in memory of its own; external data is read with one copy and no intermediate one.

    Raises:
        ModelFileError: external data is missing, outside ``base`` or too short; or the data does not fit the shape.
    """
    check_tensor(proto, base)
    dtype = TORCH_DTYPES.get(proto.data_type)
    if dtype is None:
        raise ModelFileError(f"tensor '{proto.name}' is {type_name(proto.data_type)}, which torch cannot hold")
    shape = tuple(proto.dims)
    if is_external(proto):
        return _from_file(proto, external_path(proto, base), dtype).reshape(shape)
    if proto.HasField("raw_data"):
        data = np.frombuffer(bytearray(proto.raw_data), dtype=np.uint8)
        return torch.from_numpy(data).view(dtype).reshape(shape) if data.size else torch.empty(shape, dtype=dtype)
    try:
        array = numpy_helper.to_array(proto)
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"tensor '{proto.name}' cannot be read: {error}", "export the model again") from error
    return from_numpy(array, dtype)


def from_numpy(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """A copy of the array; types that numpy lacks are taken by their bits."""
    if dtype in LOW_PRECISION:
        bits: np.ndarray = np.ascontiguousarray(array).view(_RAW_VIEWS[dtype.itemsize]).copy()
        return torch.from_numpy(bits).view(dtype).reshape(array.shape)
    return torch.from_numpy(np.array(array, order="C")).to(dtype)


def check_tensor(proto: TensorProto, base: Path | None) -> None:
    """Raise `ModelFileError` where type, dimensions and data contradict each other."""
    what = f"tensor '{proto.name}'"
    if not is_defined(proto.data_type) or proto.data_type == TensorProto.UNDEFINED:
        raise ModelFileError(f"{what} has the unknown {type_name(proto.data_type)}", "update onnx or export again")
    if any(d < 0 for d in proto.dims):
        raise ModelFileError(f"{what} has the shape {list(proto.dims)}", "export the model again")
    dtype = TORCH_DTYPES.get(proto.data_type)
    if is_external(proto):
        external_path(proto, base)
    elif dtype is not None and proto.HasField("raw_data"):
        wanted = item_count(proto) * dtype.itemsize
        if len(proto.raw_data) != wanted:
            raise ModelFileError(
                f"{what} of shape {list(proto.dims)} holds {len(proto.raw_data)} bytes instead of {wanted}",
                "the file is damaged: export or download it again",
            )


def external_path(proto: TensorProto, base: Path | None) -> Path:
    """The checked path of a tensor's external data, which must lie inside ``base``."""
    what = f"external data of tensor '{proto.name}'"
    entries = {entry.key: entry.value for entry in proto.external_data}
    location = entries.get("location", "")
    if base is None:
        raise ModelFileError(f"{what} is in a file, but the model came without a folder", "give the path of the model")
    if not location or Path(location).is_absolute() or "\0" in location:
        raise ModelFileError(f"{what} has the location '{location}'", "only paths relative to the model are read")
    path = base / location
    if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(base)):
        raise ModelFileError(f"{what} points outside the model's folder: '{location}'", "move it beside the model")
    if not path.resolve().is_relative_to(base.resolve()):
        raise ModelFileError(f"{what} is a link to outside the model's folder: '{location}'", "copy the file itself")
    if not path.is_file():
        raise ModelFileError(f"{what} is missing: '{location}'", "put the file beside the model")
    offset, length = _extent(proto, entries)
    if path.stat().st_size < offset + length:
        raise ModelFileError(
            f"{what} needs {offset + length} bytes of '{location}', which has {path.stat().st_size}",
            "the file is cut off: export or download it again",
        )
    return path


def _extent(proto: TensorProto, entries: dict[str, str]) -> tuple[int, int]:
    what = f"external data of tensor '{proto.name}'"
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", 0))
    except ValueError as error:
        raise ModelFileError(f"{what} has a bad offset or length", "export the model again") from error
    dtype = TORCH_DTYPES.get(proto.data_type)
    wanted = item_count(proto) * dtype.itemsize if dtype is not None else length
    if offset < 0 or length < 0 or (length and length != wanted):
        raise ModelFileError(f"{what}: offset {offset}, length {length}, but the shape needs {wanted} bytes")
    return offset, wanted


def _from_file(proto: TensorProto, path: Path, dtype: torch.dtype) -> torch.Tensor:
    offset, length = _extent(proto, {entry.key: entry.value for entry in proto.external_data})
    if not length:
        return torch.empty(0, dtype=dtype)
    data = np.fromfile(path, dtype=np.uint8, count=length, offset=offset)
    return torch.from_numpy(data).view(dtype)


def embeddable(proto: TensorProto, name: str, base: Path | None) -> TensorProto:
    """A copy under another name that needs no file beside it."""
    copy = TensorProto()
    copy.CopyFrom(proto)
    copy.name = name
    if is_external(proto):
        data = read_tensor(proto, base).reshape(-1).view(torch.uint8)
        copy.ClearField("external_data")
        copy.ClearField("data_location")
        copy.raw_data = data.numpy().tobytes()
    return copy


def dense(proto: onnx.SparseTensorProto) -> TensorProto:
    """A sparse tensor (COO; linear or one index per dimension) written out in full."""
    values = numpy_helper.to_array(proto.values)
    indices = numpy_helper.to_array(proto.indices)
    full = np.zeros(tuple(proto.dims), dtype=values.dtype)
    if indices.ndim == 1:
        full.reshape(-1)[indices] = values
    else:
        full[tuple(indices.T)] = values
    return numpy_helper.from_array(full, proto.values.name)
