"""`CommonSubexpressions`: compute equal things once, store equal weights once."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from tersor.context import Context
from tersor.passes._weights import share_weight_nodes, size_in_bytes
from tersor.program import Program
from tersor.rewrite import is_effect, is_returned
from tersor.rewrite_values import ASSERTIONS, arguments, key


@dataclass(frozen=True)
class CommonSubexpressions:
    """Merge nodes that apply the same operator to the same arguments, and weights that are equal bit for bit.

    Random operators, opaque nodes and operators that write are left alone. Small weights are not merged: equal biases
    of unrelated layers save nothing, and would keep other passes from changing one of them.

    Attributes:
        weight_bytes: the smallest weight that is merged with an equal one.
    """

    weight_bytes: int = 1 << 16
    exact: ClassVar[bool] = True

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        _tie_equal_weights(program, context, self.weight_bytes)
        share_weight_nodes(program)
        first: dict[Hashable, fx.Node] = {}
        for node in list(program.graph.nodes):
            if not _is_pure(node):
                continue
            kept = first.setdefault(_signature(node), node)
            if kept is node or _both_returned(kept, node):
                continue
            if context.take(node, f"equal to {kept.name}"):
                node.replace_all_uses_with(kept)
                program.graph.erase_node(node)
        program.prune_weights()
        program.changed()


def _is_pure(node: fx.Node) -> bool:
    if node.op != "call_function" or key(node) in ASSERTIONS or is_effect(node):
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    return node.target.namespace == "aten" and torch.Tag.nondeterministic_seeded not in node.target.tags


def _signature(node: fx.Node) -> Hashable:
    return node.target, _hashable(arguments(node))


def _hashable(item: Any) -> Hashable:
    if isinstance(item, dict):
        return tuple((name, _hashable(value)) for name, value in item.items())
    if isinstance(item, list | tuple):
        return tuple(map(_hashable, item))
    if isinstance(item, slice):
        return "slice", _hashable((item.start, item.stop, item.step))
    # 1, 1.0 and True are equal keys, but other literals to an operator; 0.0 and -0.0 too.
    return item if isinstance(item, fx.Node) else (type(item), repr(item) if isinstance(item, float) else item)


def _both_returned(a: fx.Node, b: fx.Node) -> bool:
    """Two outputs stay two nodes, so that each keeps its name."""
    return is_returned(a) and is_returned(b)


def _tie_equal_weights(program: Program, context: Context, smallest: int) -> None:
    groups: dict[Hashable, list[fx.Node]] = {}
    for node in program.graph.find_nodes(op="get_attr"):
        weight = program.weight(node)
        if weight is not None and weight.layout == torch.strided and size_in_bytes(weight) >= smallest:
            groups.setdefault((weight.shape, weight.dtype, weight.device), []).append(node)
    for group in groups.values():
        _tie_group(program, context, group)


def _tie_group(program: Program, context: Context, group: list[fx.Node]) -> None:
    if len({str(node.target) for node in group}) < 2:
        return
    seen: dict[Hashable, list[fx.Node]] = {}
    for node in group:
        alike = seen.setdefault(_fingerprint(program.weights[str(node.target)]), [])
        kept = next((other for other in alike if _identical(program, other, node)), None)
        if kept is None:
            alike.append(node)
        elif kept.target != node.target and context.take(node, f"weight is equal to {kept.target}"):
            node.target = kept.target


def _fingerprint(weight: torch.Tensor) -> Hashable:
    """Equal for equal weights, cheap, and rarely equal otherwise."""
    return bytes(weight.detach().reshape(-1)[:64].contiguous().view(torch.uint8).tolist())


def _identical(program: Program, a: fx.Node, b: fx.Node) -> bool:
    first, second = program.weights[str(a.target)], program.weights[str(b.target)]
    if first is second:
        return True
    bits = [weight.detach().contiguous().view(-1).view(torch.uint8) for weight in (first, second)]
    return torch.equal(*bits)
