"""Triton where it is installed, and what every kernel here needs of it and of PyTorch's tracers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import guard_or_false

from tersor.errors import UsageError
from tersor.kernels.tile import Tile

try:
    import triton
    from triton import language as tl
except ImportError:  # no Triton for this platform: the references are left
    triton = tl = None

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
"""Dtypes that activations may have."""

CAPABILITIES = (80, 90)
"""Compute capabilities that the tables of tiles are written for: A100 and H100."""

NOT_KNOWN = 1 << 20
"""What a size that differs from call to call is taken for where a tile is chosen."""


def jit(function: Any) -> Any:
    """Triton's decorator, or nothing where there is no Triton."""
    return function if triton is None else triton.jit(function)


def compiles(kernel: Any) -> bool:
    """Whether a kernel is compiled; False where Triton is absent or interprets."""
    return triton is not None and isinstance(kernel, triton.JITFunction)


def wrap_triton(kernel: Any) -> Any:
    """A kernel in the form that tracers of PyTorch see; as it is under the interpreter.

    PyTorch finds the kernels of an operator by a call of this name in its source.

    Raises:
        UsageError: there is no Triton.
    """
    if triton is None:
        raise UsageError("kernels on a GPU need Triton, which is not installed", "pip install triton")
    return torch.library.wrap_triton(kernel) if compiles(kernel) else kernel


def run(kernel: Any, grid: Sequence[Any], tile: Tile, *operands: Any, **constants: Any) -> None:
    """Launch a wrapped kernel; packages made by AOTInductor then hold it."""
    kernel[tuple(grid)](*operands, **constants, **tile.blocks, num_warps=tile.warps, num_stages=tile.stages)


def capability(value: Tensor) -> int:
    """The row of tables for the device of a tensor: the nearest known one that is not newer.

    >>> capability(torch.ones(1))
    80
    """
    if value.device.type != "cuda" or not torch.cuda.is_available():
        return CAPABILITIES[0]
    major, minor = torch.cuda.get_device_capability(value.device)
    return nearest(10 * major + minor)


def nearest(wanted: int) -> int:
    """The newest known compute capability that is not newer.

    >>> nearest(89), nearest(120), nearest(75)
    (80, 90, 80)
    """
    return max((known for known in CAPABILITIES if known <= wanted), default=CAPABILITIES[0])


def on_gpu(value: Tensor) -> bool:
    """Whether the kernel is to run, and not the reference."""
    return value.device.type == "cuda"


def static(size: Any) -> int:
    """A size as a number, or `NOT_KNOWN` where it differs from call to call.

    >>> static(3)
    3
    """
    return size if isinstance(size, int) else NOT_KNOWN


def empty(value: Tensor) -> bool:
    """Whether a tensor certainly has no elements.

    >>> empty(torch.ones(2, 0)), empty(torch.ones(2))
    (True, False)
    """
    return guard_or_false(value.numel() == 0)


def blocks(size: Any, block: int) -> Any:
    """How many blocks cover a size, which may be symbolic.

    >>> blocks(65, 64)
    2
    """
    return (size + block - 1) // block


def power(size: int, least: int = 1) -> int:
    """The power of two that is not smaller.

    >>> power(5), power(3, least=16)
    (8, 16)
    """
    return max(least, 1 << max(size - 1, 0).bit_length())


def check_floats(**tensors: Tensor | None) -> torch.dtype:
    """The one floating dtype of all tensors; raises UsageError where there are several, or another."""
    found = {name: value.dtype for name, value in tensors.items() if value is not None}
    first = next(iter(found.values()))
    if first not in FLOATS or set(found.values()) != {first}:
        names = ", ".join(f"{name} of {dtype}" for name, dtype in found.items())
        raise UsageError(names, "one dtype: float32, float16 or bfloat16")
    return first


def check_shape(name: str, value: Tensor | None, wanted: Sequence[Any]) -> None:
    """Raise UsageError where a tensor has not exactly this shape; None fits."""
    if value is not None and tuple(value.shape) != tuple(wanted):
        raise UsageError(f"{name} of shape {tuple(value.shape)}", f"shape {tuple(wanted)}")
