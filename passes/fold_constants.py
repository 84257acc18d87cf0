"""`FoldConstants`: compute once what depends on weights and literals only."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from tersor.context import Context
from tersor.passes._weights import share_weight_nodes, size_in_bytes
from tersor.program import Program
from tersor.rewrite import erase_unused, insert_weight, is_effect, is_returned
from tersor.rewrite_values import key, known, positional, tensor, value

_UNDEFINED = ("empty", "new_empty", "empty_like", "empty_strided", "empty_permuted", "new_empty_strided")


@dataclass(frozen=True)
class FoldConstants:
    """Replace what depends on weights and literals only by its value.

    A fold is declined where it would store more than it frees by ``limit_bytes``: a constant that is expanded, a
    weight that other nodes read too. Random and opaque operators are never folded.

    Attributes:
        limit_bytes: how much larger than the weights it replaces the result of one fold may be.
    """

    limit_bytes: int = 1 << 20
    exact: ClassVar[bool] = True

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        share_weight_nodes(program)
        _literal_sizes(program, context)
        constant = _constant_nodes(program)
        values: dict[fx.Node, Any] = {}
        for node in [node for node in program.graph.nodes if node in constant]:
            if any(source in constant and source not in values for source in node.all_input_nodes):
                continue
            if self._too_large(program, node, constant):
                if tensor(node) is not None and not _is_frontier_view(node):
                    context.skip(node, f"the result takes {size_in_bytes(node.meta['val'])} bytes, more than it frees")
                continue
            values[node] = _evaluate(program, node, values)
        for node in list(values):
            if any(user not in values for user in node.users):
                _store(program, context, node, values[node])
        erase_unused(program)
        program.prune_weights()
        program.changed()

    def _too_large(self, program: Program, node: fx.Node, constant: set[fx.Node]) -> bool:
        out = tensor(node)
        if out is None or (all(user in constant for user in node.users) and _is_view(node)):
            return False
        freed = sum(size_in_bytes(weight) for weight in _weights_freed(program, node, constant))
        return size_in_bytes(out) > freed + self.limit_bytes


_VIEWS = frozenset(
    {"reshape", "view", "permute", "transpose", "t", "slice", "select", "expand", "unsqueeze", "squeeze"}
)


def _is_view(node: fx.Node) -> bool:
    return key(node) in _VIEWS


def _is_frontier_view(node: fx.Node) -> bool:
    """A view of a weight costs nothing at run time, so leaving it is not worth a report."""
    return _is_view(node) and all(source.op == "get_attr" for source in node.all_input_nodes)


def _weights_freed(program: Program, node: fx.Node, constant: set[fx.Node]) -> Iterator[torch.Tensor]:
    """Weights behind a node that only constant nodes read."""
    waiting, seen = [node], {node}
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source in seen:
                continue
            seen.add(source)
            waiting.append(source)
            weight = program.weight(source)
            if weight is not None and all(user in constant for user in source.users):
                yield weight


def _literal_sizes(program: Program, context: Context) -> None:
    """A size that is the same for every input is a number."""
    for node in list(program.graph.nodes):
        size = value(node)
        if node.op != "call_function" or not isinstance(size, int | torch.SymInt) or known(size) is None:
            continue
        if node.users and context.take(node, f"the size is always {known(size)}"):
            node.replace_all_uses_with(known(size))
            program.graph.erase_node(node)


def _constant_nodes(program: Program) -> set[fx.Node]:
    constant: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.op != "call_function" or not _is_foldable(node):
            continue
        if all(source in constant or program.weight(source) is not None for source in node.all_input_nodes):
            constant.add(node)
    return constant


def _is_foldable(node: fx.Node) -> bool:
    target = node.target
    if target is operator.getitem:
        return True
    if not isinstance(target, torch._ops.OpOverload) or target.namespace not in ("aten", "prims"):
        return False
    random = torch.Tag.nondeterministic_seeded in target.tags
    return not random and not is_effect(node) and key(node) not in _UNDEFINED and bool(node.users)


def _evaluate(program: Program, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    args, kwargs = fx.node.map_arg(
        (positional(node), node.kwargs), lambda source: values[source] if source in values else program.weight(source)
    )
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _store(program: Program, context: Context, node: fx.Node, result: Any) -> None:
    if not isinstance(result, torch.Tensor) or is_returned(node):
        return
    if not context.take(node, f"folded to a weight of shape {list(result.shape)}"):
        return
    source = next((str(item.target) for item in node.all_input_nodes if item.op == "get_attr"), node.name)
    made = insert_weight(
        program, node, f"{source}_folded", result.detach().clone(memory_format=torch.contiguous_format)
    )
    node.replace_all_uses_with(made)
