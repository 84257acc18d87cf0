"""Flow through operators that read an image at other places: sampling, patches as columns, regions, moved kernels."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from tersor.axes.convolution import channels
from tersor.axes.flow import Flow, Value, fresh, fresh_value, pin_value, rule, shape, where
from tersor.axes.select import length
from tersor.axes.terms import Product, pin, product, quotient, size
from tersor.rewrite_values import argument, arguments, fake


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sample(node: fx.Node, flow: Flow) -> Value:
    """Channels pass; positions come from the grid, whose coordinates are fixed."""
    source, grid = flow.dims(node.args[0]), flow.dims(node.args[1])
    pin_value((*source[2:], grid[-1]), where(node, "sampled positions"))
    flow.tie(source[0], grid[0])
    return (*source[:2], *grid[1:-1])


@rule("affine_grid_generator")
def affine_grid(node: fx.Node, flow: Flow) -> Value:
    """Coordinates of every position, for each image of the batch."""
    theta, reason = flow.dims(node.args[0]), where(node, "sampled positions")
    pin_value(theta, reason)
    return fresh_value(node.meta["val"], reason)


@rule("im2col")
def im2col(node: fx.Node, flow: Flow) -> Value:
    """Channels become ``(channel, window)``; positions are new."""
    source, reason = flow.dims(node.args[0]), where(node, "positions of a window")
    pin_value(source[-2:], reason)
    window = fresh(math.prod(argument(node, "kernel_size")), reason)
    return (*source[:-3], Product((source[-3], window)), fresh(shape(fake(node))[-1], reason))


@rule("col2im")
def col2im(node: fx.Node, flow: Flow) -> Value:
    """The inverse of `im2col`, overlaps added."""
    source, reason = flow.dims(node.args[0]), where(node, "positions of a window")
    channel, window = flow.split(source[-2], math.prod(argument(node, "kernel_size")))
    pin_value((window, source[-1]), reason)
    return (*source[:-2], channel, *(fresh(item, reason) for item in shape(fake(node))[-2:]))


@rule("max_unpool2d", "max_unpool3d")
def unpool(node: fx.Node, flow: Flow) -> Value:
    """Every channel by itself, each value put back where its index says."""
    source, places = flow.dims(node.args[0]), flow.dims(node.args[1])
    spatial = 2 if "2d" in str(node.target) else 3
    for left, right in zip(source, places, strict=True):
        flow.tie(left, right)
    reason = where(node, "positions of a window")
    pin_value(source[-spatial:], reason)
    return (*source[:-spatial], *(fresh(item, reason) for item in shape(fake(node))[-spatial:]))


@rule("torchvision::roi_align", "torchvision::roi_pool")
def regions(node: fx.Node, flow: Flow) -> Value:
    """Channels pass; each region makes a new image."""
    source, reason = flow.dims(node.args[0]), where(node, "positions of regions")
    rows = flow.dims(node.args[1])
    pin_value((source[0], *source[2:], rows[1]), reason)

    def dims(value: Any) -> Value:
        return (rows[0], source[1], *(fresh(item, reason) for item in shape(value)[2:]))

    value = node.meta["val"]
    return [dims(item) for item in value] if isinstance(value, list | tuple) else dims(value)


@rule("torchvision::deform_conv2d")
def deformed(node: fx.Node, flow: Flow) -> Value:
    """A convolution whose window is moved by offsets; channels of one offset group move together."""
    given = arguments(node)
    source, weight = flow.dims(given["input"]), flow.dims(given["weight"])
    window, reason = size(weight[2]) * size(weight[3]), where(node, "positions of a convolution")
    pin_value((*source[2:], *weight[2:]), reason)
    group, per_group = flow.split(source[1], quotient(size(source[1]), given["groups"]) or 1)
    flow.literal(node, "groups", lambda kept: length(group, kept))
    out = channels(node, flow, (group, per_group), weight)
    flow.tie(flow.dims(given["bias"])[0], out)
    flow.contract(node, given["input"], 1)
    moved, _ = flow.split(source[1], quotient(size(source[1]), given["offset_groups"]) or 1)
    flow.literal(node, "offset_groups", lambda kept: length(moved, kept))
    for name, count in (("offset", 2 * window), ("mask", window)):
        if name == "offset" or given["use_mask"]:
            dims = flow.dims(given[name])
            flow.tie(dims[1], product((moved, fresh(count, reason))))
            flow.tie(dims[0], source[0])
            pin_value(dims[2:], reason)
    return (source[0], out, *(fresh(item, reason) for item in shape(fake(node))[2:]))


@rule("torchvision::nms", "torchvision::ps_roi_align", "torchvision::ps_roi_pool")
def fixed(node: fx.Node, flow: Flow) -> Value:
    """Boxes are chosen by all their values; channels that stand for positions stay."""
    return flow.fixed(node, where(node, "positions of regions"))


@rule("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(node: fx.Node, flow: Flow) -> Value:
    """Channels are a product of channels and a square of pixels."""
    source, result = flow.dims(node.args[0]), shape(fake(node))
    factor, reason = int(node.args[1]), where(node, "pixel shuffle")  # type: ignore[arg-type]
    pin_value(source[-2:], reason)
    if node.target.overloadpacket.__name__ == "pixel_shuffle":  # type: ignore[union-attr]
        made, square = flow.split(source[-3], factor * factor)
        pin(square, reason)
    else:
        made = product((source[-3], fresh(factor * factor, reason)))
    return (*source[:-3], made, *(fresh(item, reason) for item in result[-2:]))
