"""Which layers the 2:4 kernels of TensorRT and PyTorch take, and from which size on they can pay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch

_CUSPARSELT = {torch.float16: (16, 16), torch.bfloat16: (16, 16), torch.int8: (32, 32), torch.float8_e4m3fn: (32, 32)}
_CUTLASS = {torch.float16: (32, 64), torch.bfloat16: (32, 64), torch.int8: (16, 128), torch.float32: (32, 32)}

_TENSORRT = (torch.float16, torch.int8)

TENSORRT_CHANNELS = 256
"""Channels from which TensorRT's sparse kernels are faster, by its maintainers (NVIDIA/TensorRT issues 3849, 4065)."""

_AMPERE = (8, 0)


def torch_semi_structured(
    shape: Sequence[int],
    dtype: torch.dtype,
    kernels: Literal["cusparselt", "cutlass"] = "cusparselt",
    capability: tuple[int, int] = _AMPERE,
) -> str:
    """Why ``torch.sparse.to_sparse_semi_structured`` would not take a weight; empty where it would.

    The types and the multiples of rows and columns are ``_DTYPE_SHAPE_CONSTRAINTS`` of the two classes in
    ``torch/sparse/semi_structured.py`` (2.11 to 2.13). Its CUTLASS kernels run on compute capability 8.x only
    (``aten/src/ATen/native/sparse/cuda``, pytorch issue 132928); for float32 they want 1:2, not 2:4.

    Args:
        shape: of the weight, [out, in]; a convolution has no such kernel.
        dtype: of the weight.
        kernels: the library underneath; PyTorch prefers cuSPARSELt.
        capability: of the device.

    >>> torch_semi_structured((128, 64), torch.bfloat16)
    ''
    >>> torch_semi_structured((128, 40), torch.bfloat16)
    '40 inputs are not a multiple of 16'
    """
    if capability < _AMPERE or (kernels == "cutlass" and capability[0] != 8):
        return f"{kernels} has no sparse kernels for compute capability {capability[0]}.{capability[1]}"
    if len(shape) != 2:
        return "only matrices have sparse kernels"
    sizes = _CUSPARSELT if kernels == "cusparselt" else _CUTLASS
    if dtype not in sizes:
        return f"{kernels} has no sparse kernels for {dtype}"
    if dtype == torch.float32:
        return "sparse float32 kernels take 1:2, not 2:4"
    rows, columns = sizes[dtype]
    return _multiple(shape[0], rows, "outputs") or _multiple(shape[1], columns, "inputs")


def tensorrt(
    shape: Sequence[int],
    dtype: torch.dtype,
    groups: int = 1,
    capability: tuple[int, int] = _AMPERE,
    least: int = TENSORRT_CHANNELS,
) -> str:
    """Why TensorRT would not pick a sparse kernel for a convolution or linear layer; empty where it may.

    Its developer guide ("Sparsity") asks for GPUs from Ampere on, half precision or int8, and 2:4 along input
    channels at each point of the kernel. Grouped convolutions are not considered (NVIDIA/TensorRT issue 4054). It
    times sparse and dense kernels and keeps the faster, which sparse ones are from about 256 output channels and as
    many input channels times points of the kernel on (issues 3849 and 4065).

    Args:
        shape: of the weight, [out, in / groups, *kernel].
        dtype: that the layer computes in.
        groups: of the convolution.
        capability: of the device.
        least: outputs, and inputs times points, from which it can pay; 0 asks only whether it is possible.

    >>> tensorrt((512, 256, 3, 3), torch.float16)
    ''
    >>> tensorrt((64, 64, 3, 3), torch.float16)
    '64 outputs are fewer than the 256 from which sparse kernels are faster'
    """
    if capability < _AMPERE:
        return f"compute capability {capability[0]}.{capability[1]} has no sparse tensor cores"
    if len(shape) < 2:
        return "only convolutions and matrices have sparse kernels"
    if dtype not in _TENSORRT:
        return f"TensorRT documents sparse kernels for float16 and int8, not for {dtype}"
    if groups != 1:
        return "grouped convolutions have no sparse kernels"
    if reason := _multiple(shape[1], 4, "inputs"):
        return reason
    for count, name in ((shape[0], "outputs"), (math.prod(shape[1:]), "inputs")):
        if count < least:
            return f"{count} {name} are fewer than the {least} from which sparse kernels are faster"
    return ""


def _multiple(count: int, size: int, name: str) -> str:
    return "" if count and count % size == 0 else f"{count} {name} are not a multiple of {size}"
