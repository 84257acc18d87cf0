"""Block-wise matrix products in a graph, in place of a linear layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from tersor.factor.layers import Layer
from tersor.factor.monarch import Monarch
from tersor.factor.shapes import reshape, sizes
from tersor.program import Program
from tersor.rewrite import insert_call, insert_weight, replace
from tersor.rewrite_values import arguments, fake

aten = torch.ops.aten


def put_monarch(program: Program, layer: Layer, made: Monarch, bias: Tensor | None) -> None:
    """Let two block-diagonal products stand for a linear layer, whose name the result takes."""
    inner, _, outer, rank = made.first.shape
    site = _Site(program, layer)
    value = site.product(site.split(layer.source, inner), made.first.flatten(2), "first")
    value = site.product(site.cross(value, inner, outer, rank), made.second.flatten(1, 2), "second")
    site.finish(site.join(value), bias)


def put_diagonal(
    program: Program, layer: Layer, diagonal: Tensor, inner: Tensor, outer: Tensor, bias: Tensor | None
) -> None:
    """Let one block-diagonal product stand for a linear layer, whose name the result takes.

    Args:
        diagonal: (blocks, out / blocks, in / blocks).
        inner: (in,) the inputs in the order of the blocks.
        outer: (out,) the outputs in the order of the blocks.
        bias: (out,) in the layer's own order.
    """
    site = _Site(program, layer)
    value = site.split(site.select(layer.source, inner), len(diagonal))
    value = site.join(site.product(value, diagonal.mT, "blocks"))
    site.finish(site.select(value, outer.argsort()), bias)


class _Site:
    """Inserts nodes before a layer."""

    def __init__(self, program: Program, layer: Layer) -> None:
        self.program, self.layer, self.node = program, layer, layer.node
        self.lead = sizes(self.node, layer.source, fake(layer.source).dim() - 1)
        self.name = str(arguments(layer.node)["weight"].target)

    def call(self, target: Any, *args: Any) -> fx.Node:
        return insert_call(self.node, target, args)

    def weight(self, value: Tensor, suffix: str) -> fx.Node:
        """A constant, numbers in the layer's dtype."""
        dtype = self.layer.weight.dtype if value.is_floating_point() else value.dtype
        return insert_weight(self.program, self.node, f"{self.name}_{suffix}", value.to(dtype).contiguous())

    def select(self, value: fx.Node, order: Tensor) -> fx.Node:
        """The last dimension in another order."""
        if bool((order == torch.arange(len(order))).all()):
            return value
        return self.call(aten.index_select.default, value, fake(value).dim() - 1, self.weight(order, "order"))

    def split(self, value: fx.Node, blocks: int) -> fx.Node:
        """(..., rows, width) as (..., block, rows, size)."""
        made = reshape(self.node, value, [*self.lead, blocks, int(fake(value).shape[-1]) // blocks])
        return self.call(aten.transpose.int, made, -3, -2)

    def product(self, value: fx.Node, blocks: Tensor, suffix: str) -> fx.Node:
        """(..., block, rows, size) times (block, size, other)."""
        return self.call(aten.matmul.default, value, self.weight(blocks, suffix))

    def cross(self, value: fx.Node, inner: int, outer: int, rank: int) -> fx.Node:
        """(..., in block, rows, out block * rank) as (..., out block, rows, in block * rank)."""
        lead, rows = self.lead[:-1], self.lead[-1]
        made = reshape(self.node, value, [*lead, inner, rows, outer, rank])
        order = [*range(len(lead)), *(len(lead) + axis for axis in (2, 1, 0, 3))]
        made = self.call(aten.permute.default, made, order)
        return reshape(self.node, made, [*lead, outer, rows, inner * rank])

    def join(self, value: fx.Node) -> fx.Node:
        """(..., block, rows, size) as (..., rows, block * size)."""
        made = self.call(aten.transpose.int, value, -3, -2)
        return reshape(self.node, made, [*self.lead, self.layer.outputs])

    def finish(self, value: fx.Node, bias: Tensor | None) -> None:
        """Add the bias, and let the value stand for the layer."""
        if bias is not None:
            value = self.call(aten.add.Tensor, value, self.weight(bias, "bias"))
        replace(self.program, self.node, value)
        value.name = self.layer.name
