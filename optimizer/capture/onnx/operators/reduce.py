"""Reductions along axes, with the axes as attribute or as input, and the positions of extremes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tersor.capture.onnx.operators.integers import WIDER, choosing, ordered
from tersor.capture.onnx.operators.precision import as_type
from tersor.capture.onnx.registry import Function, Node, operator
from tersor.capture.onnx.values import Opaque, Value, numbers

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _axes(node: Node, x: Tensor, axes: Value | None) -> list[int]:
    given = node.get("axes") if axes is None else numbers(axes, "the axes")
    if not given:
        return [] if node.get("noop_with_empty_axes", 0) else list(range(x.dim()))
    if not all(isinstance(axis, int) for axis in given):
        raise Opaque("the axes depend on a shape")
    return [axis % x.dim() for axis in given]


def _sum(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return as_type(torch.sum(x, dims, keep, dtype=_accumulator(x)), x.dtype) if dims else x


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.int64 if x.dtype in WIDER else x.dtype


def _mean(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if not dims:
        return x
    if x.is_floating_point():
        return torch.mean(x, dims, keep)
    count = math.prod(x.shape[d] for d in dims)
    return as_type(torch.div(torch.sum(x, dims, keep), count, rounding_mode="trunc"), x.dtype)


def _prod(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    y = as_type(x, _accumulator(x))
    for dim in sorted(dims, reverse=True):
        y = torch.prod(y, dim, keep, dtype=y.dtype)
    return as_type(y, x.dtype)


def _sum_square(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    wide = as_type(x, _accumulator(x))
    return as_type(_sum(wide * wide, dims, keep), x.dtype)


def _l1(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return _sum(x if x.dtype in WIDER else torch.abs(x), dims, keep)


def _l2(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.linalg.vector_norm(x, 2, dims, keep) if dims else torch.abs(x)
    return as_type(torch.sqrt(_sum_square(as_type(x, torch.float64), dims, keep)), x.dtype)


def _log_sum(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.log(_sum(x, dims, keep))
    return as_type(torch.log(_sum(as_type(x, torch.float64), dims, keep)), x.dtype)


def _log_sum_exp(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if not dims:
        return x
    if x.is_floating_point():
        return torch.logsumexp(x, dims, keep)
    return as_type(torch.logsumexp(as_type(x, torch.float64), dims, keep), x.dtype)


def _extreme(largest: bool) -> Reduction:
    def reduce(x: Tensor, dims: list[int], keep: bool) -> Tensor:
        if not dims:
            return x
        if any(isinstance(x.shape[d], int) and x.shape[d] == 0 for d in dims):
            return _filled(x, dims, keep, _neutral(x.dtype, largest))
        if x.dtype == torch.bool:
            return as_type((torch.amax if largest else torch.amin)(as_type(x, torch.uint8), dims, keep), torch.bool)
        return choosing(lambda y: (torch.amax if largest else torch.amin)(y, dims, keep), x)

    return reduce


def _neutral(dtype: torch.dtype, largest: bool) -> Any:
    if dtype == torch.bool:
        return not largest
    if dtype.is_floating_point:
        return -math.inf if largest else math.inf
    return torch.iinfo(dtype).min if largest else torch.iinfo(dtype).max


def _filled(x: Tensor, dims: list[int], keep: bool, value: Any) -> Tensor:
    shape = [1 if d in dims else size for d, size in enumerate(x.shape) if keep or d not in dims]
    return torch.full(shape, value, dtype=x.dtype, device=x.device)


def _register(name: str, reduction: Reduction, axes_input_since: int) -> None:
    def by_attribute(node: Node, x: Tensor) -> Tensor:
        return reduction(x, _axes(node, x, None), bool(node.get("keepdims", 1)))

    def by_input(node: Node, x: Tensor, axes: Value | None = None) -> Tensor:
        return reduction(x, _axes(node, x, axes), bool(node.get("keepdims", 1)))

    operator(name)(by_attribute)
    operator(name, since=axes_input_since, static=(1,))(by_input)


for _name, _reduction in {
    "ReduceMean": _mean, "ReduceProd": _prod, "ReduceSumSquare": _sum_square, "ReduceL1": _l1, "ReduceL2": _l2,
    "ReduceLogSum": _log_sum, "ReduceLogSumExp": _log_sum_exp, "ReduceMax": _extreme(True),
    "ReduceMin": _extreme(False),
}.items():  # fmt: skip
    _register(_name, _reduction, 18)
_register("ReduceSum", _sum, 13)


def _position(largest: bool) -> Function:
    def replay(node: Node, x: Tensor) -> Tensor:
        axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
        find = torch.argmax if largest else torch.argmin
        y = ordered(x)
        if not node.get("select_last_index", 0):
            return find(y, axis, keepdim=keep)
        return x.shape[axis] - 1 - find(y.flip(axis), axis, keepdim=keep)

    return replay


operator("ArgMax")(_position(True))
operator("ArgMin")(_position(False))
