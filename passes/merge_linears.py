"""`MergeLinears`: layers that read the same input become one layer and a split."""

from __future__ import annotations

import operator
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from tersor.context import Context
from tersor.convolution import CONVOLUTIONS
from tersor.passes._weights import share_weight_nodes, shared_with
from tersor.program import Program
from tersor.rewrite import erase_unused, insert_call, insert_weight
from tersor.rewrite_values import arguments, fake, key

aten = torch.ops.aten


@dataclass(frozen=True)
class MergeLinears:
    """Replace linear layers on the same input by one layer and a split of its result.

    A layer without bias among layers with one gets zeros. Declined for weights that other nodes read too, which would
    have to be stored twice.

    Attributes:
        convolutions: merge ungrouped convolutions of equal geometry, too.
    """

    convolutions: bool = False
    exact: ClassVar[bool] = True

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        share_weight_nodes(program)
        groups: dict[Hashable, list[fx.Node]] = {}
        for node in program.graph.nodes:
            names = ("linear", *CONVOLUTIONS) if self.convolutions else ("linear",)
            if key(node) in names:
                group = groups.setdefault(_geometry(program, node), [])
                group.append(node)
        for group in groups.values():
            if len(group) > 1:
                _merge(program, context, [node for node in group if _is_mergeable(program, context, node)])
        erase_unused(program)
        program.prune_weights()
        program.changed()


def _geometry(program: Program, node: fx.Node) -> Hashable:
    """Equal for layers that can be one: input, kernel, stride, padding, dilation, groups, dtype."""
    given = dict(arguments(node))
    weight, bias = given.pop("weight"), given.pop("bias")
    stored = program.weight(weight)
    options = tuple((name, tuple(item) if isinstance(item, list) else item) for name, item in given.items())
    if stored is None or stored.dim() < 2 or given.get("groups", 1) != 1:
        return node
    if bias is not None and program.weight(bias) is None:
        return node
    return node.target, options, stored.dtype, tuple(stored.shape[1:])


def _is_mergeable(program: Program, context: Context, node: fx.Node) -> bool:
    given = arguments(node)
    other = shared_with(program, given["weight"], node)
    if other is not None:
        context.skip(node, f"weight {given['weight'].target} is read by {other.name} too; merging would store it twice")
    return other is None


def _merge(program: Program, context: Context, group: list[fx.Node]) -> None:
    if len(group) < 2:
        return
    first = group[0]
    names = ", ".join(node.name for node in group)
    if not context.take(first, f"one layer for {names}"):
        return
    given = dict(arguments(first))
    weights = [program.weights[str(arguments(node)["weight"].target)] for node in group]
    given["weight"] = insert_weight(program, first, f"{given['weight'].target}_merged", torch.cat(weights))
    bias = _biases(program, group, weights)
    if bias is not None:
        given["bias"] = insert_weight(program, first, f"{given['weight'].target}_bias", bias)
    merged = insert_call(first, first.target, list(given.values()))
    out = fake(merged)
    axis = out.dim() - 1 if key(first) == "linear" else out.dim() - weights[0].dim() + 1
    sizes = [weight.shape[0] for weight in weights]
    parts = insert_call(first, aten.split_with_sizes.default, [merged, sizes, axis])
    for position, node in enumerate(group):
        _take_part(program, first, node, parts, position)


def _take_part(program: Program, first: fx.Node, node: fx.Node, parts: fx.Node, position: int) -> None:
    part: Any = insert_call(first, operator.getitem, [parts, position], like=node)
    node.replace_all_uses_with(part)


def _biases(program: Program, group: list[fx.Node], weights: list[torch.Tensor]) -> torch.Tensor | None:
    found = [program.weight(arguments(node)["bias"]) for node in group]
    if all(bias is None for bias in found):
        return None
    pairs = zip(found, weights, strict=True)
    return torch.cat([weight.new_zeros(weight.shape[0]) if bias is None else bias for bias, weight in pairs])
