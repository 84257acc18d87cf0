"""Experts that choose their tokens, in a graph, in place of a feed-forward block."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tersor.factor.feedforward import FeedForward, Leaf
from tersor.factor.shapes import reshape, sizes
from tersor.program import Program
from tersor.rewrite import insert_call, insert_weight, replace
from tersor.rewrite_values import arguments

aten = torch.ops.aten


@dataclass(frozen=True)
class Experts:
    """How a block is divided.

    Attributes:
        parts: (units,) the expert of each hidden unit.
        mean: (units,) what a unit counts as where its expert is left out.
        weight: (experts, in) of the router.
        bias: (experts,) of the router.
    """

    parts: Tensor
    mean: Tensor
    weight: Tensor
    bias: Tensor


def put_experts(program: Program, block: FeedForward, made: Experts, sixteenths: int) -> None:
    """Let experts stand for a feed-forward block, whose name the result takes.

    Each expert takes the tokens of a sample that the router scores highest, `tersor.factor.experts.capacity` of them.
    """
    site = _Site(program, block, made)
    batch, tokens = sizes(block.down, block.source, 2)
    rows = site.rows(batch, tokens, sixteenths)
    hidden = site.hidden(rows)
    experts = len(made.bias)
    order = made.parts.argsort(stable=True).reshape(experts, -1)
    weight = block.weight.double()
    shift = -torch.stack([weight[:, units] @ made.mean[units] for units in order])[:, None]
    value = site.product(hidden, torch.stack([weight[:, units].T for units in order]), shift, "second")
    bias = weight @ made.mean + (0.0 if block.bias is None else block.bias.double())
    fixed = isinstance(batch, int) and isinstance(tokens, int)
    total = batch * tokens if fixed else site.call(operator.mul, batch, tokens)
    value = site.call(aten.add.Tensor, site.summed(value, rows, total, len(weight)), site.weight(bias, "bias"))
    name = block.down.name
    value = reshape(block.down, value, [batch, tokens, len(weight)])
    replace(program, block.down, value)
    value.name = name


class _Site:
    """Inserts nodes before the last layer of a block."""

    def __init__(self, program: Program, block: FeedForward, made: Experts) -> None:
        self.program, self.block, self.made, self.node = program, block, made, block.down
        self.name = str(arguments(block.down)["weight"].target)

    def call(self, target: Any, *args: Any) -> fx.Node:
        return insert_call(self.node, target, args)

    def weight(self, value: Tensor, suffix: str) -> fx.Node:
        """A constant in the block's dtype."""
        value = value.to(self.block.weight.dtype).contiguous()
        return insert_weight(self.program, self.node, f"{self.name}_{suffix}", value)

    def product(self, value: fx.Node, weight: Tensor, bias: Tensor | None, suffix: str) -> fx.Node:
        """(expert, rows, size) times (expert, size, other), plus (expert, 1, other)."""
        made = self.call(aten.matmul.default, value, self.weight(weight, suffix))
        if bias is None:
            return made
        return self.call(aten.add.Tensor, made, self.weight(bias, f"{suffix}_bias"))

    def rows(self, batch: Any, tokens: Any, sixteenths: int) -> fx.Node:
        """Positions of the chosen tokens in (batch * tokens), one expert after another."""
        scores = self.call(
            aten.linear.default,
            self.block.source,
            self.weight(self.made.weight, "router"),
            self.weight(self.made.bias, "router_bias"),
        )
        turned = self.call(aten.transpose.int, scores, 1, 2)
        best = self.call(aten.topk.default, turned, self._capacity(tokens, sixteenths))
        places = self.call(operator.getitem, best, 1)
        if batch != 1:
            starts = self.call(aten.mul.Tensor, self.call(aten.arange.default, batch), tokens)
            places = self.call(aten.add.Tensor, places, self.call(aten.reshape.default, starts, [-1, 1, 1]))
        turned = self.call(aten.permute.default, places, [1, 0, 2])
        return self.call(aten.reshape.default, turned, [-1])

    def _capacity(self, tokens: Any, sixteenths: int) -> Any:
        """As `tersor.factor.experts.capacity`, also for a size that differs from call to call."""
        if isinstance(tokens, int):
            return (tokens * sixteenths + 15) // 16
        more = self.call(operator.add, self.call(operator.mul, tokens, sixteenths), 15)
        return self.call(operator.floordiv, more, 16)

    def hidden(self, rows: fx.Node) -> fx.Node:
        """(expert, rows, units / experts) the hidden units of each expert at its tokens."""
        wide = self.block.leaves[0].weight.shape[1]
        flat = self.call(aten.reshape.default, self.block.source, [-1, wide])
        taken = self.call(aten.index_select.default, flat, 0, rows)
        taken = self.call(aten.reshape.default, taken, [len(self.made.bias), -1, wide])
        values: dict[fx.Node, fx.Node] = {}
        for number, leaf in enumerate(self.block.leaves):
            values[leaf.node] = self._leaf(taken, leaf, f"first_{number}" if number else "first")
        for node in self.block.inner:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda item: values.get(item, item))
            values[node] = insert_call(self.node, node.target, args, kwargs, like=node)
        return values[self.block.hidden]

    def summed(self, value: fx.Node, rows: fx.Node, total: Any, width: int) -> fx.Node:
        """(total, width) for each token the sum of what experts give, who took it as one of ``rows``.

        Every token looks up its row at each expert, a row of zeros where it was not taken: scattered sums, at points
        that coincide, are slow in most runtimes.
        """
        experts = len(self.made.bias)
        ones = self.call(aten.ones_like.default, rows)
        numbers = self.call(aten.reshape.default, self.call(aten.cumsum.default, ones, 0), [experts, -1])
        none = insert_call(self.node, aten.full.default, ([experts, total], 0), {"dtype": torch.int64})
        taken = self.call(aten.scatter.src, none, 1, self.call(aten.reshape.default, rows, [experts, -1]), numbers)
        places = self.call(aten.reshape.default, self.call(aten.transpose.int, taken, 0, 1), [-1])
        flat = self.call(aten.reshape.default, value, [-1, width])
        zero = self.weight(torch.zeros(1, width), "left_out")
        found = self.call(aten.index_select.default, self.call(aten.cat.default, [zero, flat]), 0, places)
        return self.call(aten.sum.dim_IntList, self.call(aten.reshape.default, found, [-1, experts, width]), [1])

    def _leaf(self, taken: fx.Node, leaf: Leaf, suffix: str) -> fx.Node:
        order = self.made.parts.argsort(stable=True).reshape(len(self.made.bias), -1)
        weight = leaf.weight[order].mT
        return self.product(taken, weight, None if leaf.bias is None else leaf.bias[order][:, None], suffix)
