"""Cases of `sparse_24_matmul` for the interpreter: shapes of real layers, ragged edges, all formats."""

from __future__ import annotations

import torch

from tersor.kernels.sparse_24_matmul import launch, reference
from tersor.sparse.masks import magnitude
from tersor.sparse.pack import TWO_FOUR, pack

FEW = [(1, 768, 192), (40, 256, 72), (3, 100, 37), (1, 4, 1)]
MANY = [
    (1, 768, 768),
    (5, 384, 1536),
    (64, 192, 576),
    (17, 12, 20),
    (1, 4096, 4096),
    (16, 4096, 1024),
    (1, 3072, 768),
    (2, 1024, 4096),
    (70, 512, 2050),
    (4, 2052, 51),
]
FORMATS = {"float32": 0, "float16": 0, "bfloat16": 0, "int8 in bfloat16": 1, "int8 in float16": 1}


def operands(rows: int, inputs: int, outputs: int, dtype: torch.dtype, whole: bool) -> list[torch.Tensor | None]:
    """x, values, metadata, scale, bias; a part of the blocks has fewer than two weights."""
    draw = torch.Generator().manual_seed(rows + inputs + outputs)
    weight = torch.randn(outputs, inputs, generator=draw) / inputs**0.5
    weight = weight * magnitude(weight, TWO_FOUR) * (torch.rand(weight.shape, generator=draw) > 0.1)
    scale = weight.abs().amax(1).clamp_min(1e-6) / 127 if whole else None
    stored = weight.to(dtype) if scale is None else (weight / scale[:, None]).round().to(torch.int8)
    packed = pack(stored)
    x = torch.randn(rows, inputs, generator=draw).to(dtype)
    return [x, packed.values, packed.metadata, scale, torch.randn(outputs, generator=draw).to(dtype)]


def excess(rows: int, inputs: int, outputs: int, dtype: torch.dtype, whole: bool) -> float:
    """The largest error, as a multiple of what rounding of the result and of the sums allows."""
    given = operands(rows, inputs, outputs, dtype, whole)
    made = launch(*given, exact=dtype == torch.bfloat16)  # type: ignore[arg-type, misc]
    wanted = reference(*given)  # type: ignore[arg-type]
    assert made.dtype == wanted.dtype and made.shape == wanted.shape
    x, values, metadata, scale, _ = given
    assert x is not None and values is not None
    size = reference(x.abs().float(), values.abs() if whole else values.abs().float(), metadata, scale)  # type: ignore[arg-type]
    allowed = 2 * torch.finfo(dtype).eps * wanted.float().abs() + 1e-5 * size + 1e-6
    return float(((made.float() - wanted.float()).abs() / allowed).max())
