"""Which torch dtype holds an ONNX element type, and which ONNX element types torch cannot hold."""

from __future__ import annotations

import onnx
import torch
from onnx import TensorProto

from tersor.capture.onnx.values import Opaque

TORCH_DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.BOOL: torch.bool,
    TensorProto.COMPLEX64: torch.complex64,
    TensorProto.COMPLEX128: torch.complex128,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
}
"""ONNX element type -> torch dtype. Strings and packed 4-bit and 2-bit types have none."""

ONNX_DTYPES: dict[torch.dtype, int] = {dtype: element for element, dtype in TORCH_DTYPES.items()}
"""torch dtype -> ONNX element type."""

LOW_PRECISION = {d for d in TORCH_DTYPES.values() if d.itemsize == 1 and d.is_floating_point} | {torch.bfloat16}
"""dtypes that numpy has no type for."""


def torch_dtype(element: int) -> torch.dtype:
    """The torch dtype of an ONNX element type; raises `Opaque` where torch has none.

    >>> torch_dtype(1)
    torch.float32
    """
    if element not in TORCH_DTYPES:
        raise Opaque(f"torch has no {type_name(element)} tensors")
    return TORCH_DTYPES[element]


def type_name(element: int) -> str:
    """The ONNX name of an element type, also of numbers that ONNX does not define.

    >>> type_name(8), type_name(999)
    ('STRING', 'element type 999')
    """
    return str(onnx.TensorProto.DataType.Name(element)) if is_defined(element) else f"element type {element}"


def is_defined(element: int) -> bool:
    """Whether ONNX defines this element type."""
    return element in onnx.TensorProto.DataType.values()
