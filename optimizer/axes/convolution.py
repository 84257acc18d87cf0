"""Flow through convolutions, pooling and resampling: channels pass or mix, positions are fixed."""

from __future__ import annotations

from typing import Any

from torch import fx

from tersor.axes.flow import Dims, Flow, Value, fresh, rule, shape, where
from tersor.axes.select import length
from tersor.axes.terms import Term, pin, product, quotient, size
from tersor.convolution import EVERY, is_transposed
from tersor.rewrite_values import arguments, fake


@rule(*EVERY)
def convolution(node: fx.Node, flow: Flow) -> Value:
    """Channels: ``(group, in) -> (group, out)``; positions are new unless the kernel is a single point."""
    given = arguments(node)
    source, weight = flow.dims(given["input"]), flow.dims(given["weight"])
    spatial = len(weight) - 2
    channel = len(source) - spatial - 1
    for term in weight[2:]:
        pin(term, where(node, "the kernel's window"))
    groups = int(given["groups"])
    group, per_group = flow.split(source[channel], quotient(size(source[channel]), groups) or 1)
    flow.literal(node, "groups", lambda kept: length(group, kept))
    out = channels(node, flow, (group, per_group), weight)
    if (given.get("bias")) is not None:
        flow.tie(flow.dims(given["bias"])[0], out)
    flow.contract(node, given["input"], channel)
    return (*source[:channel], out, *_positions(node, source[channel + 1 :], weight[2:]))


def channels(node: fx.Node, flow: Flow, source: tuple[Term, Term], weight: Dims) -> Term:
    """The output channels of a kernel over ``(group, in)``."""
    group, per_group = source
    transposed = is_transposed(node)
    inputs, outputs = (weight[0], weight[1]) if transposed else (weight[1], weight[0])
    if transposed:
        flow.tie(inputs, product((group, per_group)))
        out = product((group, outputs))
    else:
        flow.tie(inputs, per_group)
        groups, _ = flow.split(outputs, quotient(size(outputs), size(group)) or 1)
        flow.tie(groups, group)
        out = outputs
    flow.role(node, "in", per_group)
    flow.role(node, "out", out)
    if size(group) != 1:
        flow.role(node, "group", group)
    return out


def _positions(node: fx.Node, source: Dims, kernel: Dims) -> Dims:
    given = arguments(node)
    if all(size(k) == 1 for k in kernel) and _ones(given["stride"]) and _zeros(given["padding"]):
        return source
    reason = where(node, "positions of a convolution")
    for term in source:
        pin(term, reason)
    return tuple(fresh(item, reason) for item in shape(fake(node))[-len(source) :])


def _ones(value: Any) -> bool:
    return all(item == 1 for item in ([value] if isinstance(value, int) else value))


def _zeros(value: Any) -> bool:
    return value == "valid" or all(item == 0 for item in ([value] if isinstance(value, int | str) else value))


_WINDOWS = {
    name + form: dims
    for dims, form in ((1, "1d"), (2, "2d"), (3, "3d"))
    for name in (
        "max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "upsample_nearest", "_upsample_nearest_exact",
    )
}  # fmt: skip
_RESAMPLE = ("upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")


@rule(
    *_WINDOWS, *_RESAMPLE, "upsample_linear1d", "upsample_trilinear3d", "max_pool1d_with_indices",
    "max_pool2d_with_indices", "max_pool3d_with_indices", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
)  # fmt: skip
def windows(node: fx.Node, flow: Flow) -> Value:
    """Every channel by itself; positions are new."""
    name = node.target.overloadpacket.__name__  # type: ignore[union-attr]
    spatial = 1 if "1d" in name else 3 if "3d" in name else 2
    value = node.meta["val"]
    return (
        [_each(node, flow, item, spatial) for item in value]
        if isinstance(value, list | tuple)
        else _each(node, flow, value, spatial)
    )


def _each(node: fx.Node, flow: Flow, value: Any, spatial: int) -> Dims:
    source = flow.dims(node.args[0])
    reason = where(node, "positions of a window")
    for term in source[-spatial:]:
        pin(term, reason)
    return (*source[:-spatial], *(fresh(item, reason) for item in shape(value)[-spatial:]))
