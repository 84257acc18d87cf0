"""Operators that are taken apart at capture, because no backend or exporter knows them whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_GROUPED = (("transformers", "grouped_mm_fallback"), ("aten", "_grouped_mm"))


def grouped_matmul(
    rows: Tensor, weights: Tensor, ends: Tensor | None = None, bias: Tensor | None = None, out_dtype: Any = None
) -> Tensor:
    """Rows in consecutive groups, each group times its own matrix.

    Args:
        rows: ``[S, K]``, sorted by group.
        weights: ``[G, K, N]``.
        ends: ``[G]``, where each group ends.

    Returns:
        ``[S, N]``; every row is multiplied with the matrix that it belongs to, picked by its position.
    """
    if ends is None or rows.dim() != 2 or weights.dim() != 3 or bias is not None:
        return NotImplemented  # torch then keeps the operator whole
    position = torch.arange(rows.shape[0], device=rows.device)
    group = (position[:, None] >= ends[None, :]).sum(1).clamp(max=weights.shape[0] - 1)
    product = torch.matmul(rows[:, None, :], weights[group]).squeeze(1)
    return product if out_dtype is None else product.to(out_dtype)


def table() -> dict[Any, Callable[..., Any]]:
    """What `ExportedProgram.run_decompositions` is given; only operators that are loaded."""
    found: dict[Any, Callable[..., Any]] = {}
    for namespace, name in _GROUPED:
        packet = getattr(getattr(torch.ops, namespace), name, None)
        if packet is not None:
            found[packet.default] = grouped_matmul
    return found
