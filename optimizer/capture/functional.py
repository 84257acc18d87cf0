"""A captured graph made functional in one walk, where its operators are few and well known.

torch.export's own way, `run_decompositions`, traces the whole graph a second time, which takes longer than the first.
Most graphs need a dozen spellings replaced and some operators that write in place taken out of place; whatever else a
graph holds is left to torch.export.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import fx

from tersor.capture.decompose import table

aten = torch.ops.aten

_ARITHMETIC = frozenset({
    operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg,
    operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, torch.sym_max, torch.sym_min,
    torch.sym_not, torch.sym_sum, torch.sym_int, torch.sym_float, math.ceil, math.floor,
})  # fmt: skip


class _Unknown(Exception):
    """Something that torch.export has to do."""


def make_functional(graph: fx.Graph) -> bool:
    """Edit ``graph`` in place so that no operator writes into its inputs; False, half done, where that is not known.

    Values are those that `run_decompositions` gives for the project's table of decompositions, to the last bit; the
    spelling of views may differ.
    """
    try:
        for node in list(graph.nodes):
            if node.op == "call_function":
                _one(graph, node)
    except _Unknown:
        return False
    graph.eliminate_dead_code()
    return True


def _one(graph: fx.Graph, node: fx.Node) -> None:
    target: Any = node.target
    if target in _ARITHMETIC or target is aten.reshape.default:  # whether a reshape copies is no matter of values
        return
    if not isinstance(target, torch._ops.OpOverload):
        raise _Unknown
    rule = _RULES.get(target)
    if rule is not None:
        rule(graph, node)
    elif target._schema.is_mutable:
        _out_of_place(node, target)
    elif not _stays(target):
        raise _Unknown


@cache
def _stays(target: Any) -> bool:
    """Whether torch.export leaves the operator as it is."""
    if target in table() or torch.Tag.maybe_aliasing_or_mutating in target.tags:
        return False
    if target is aten.native_batch_norm.default:
        return False
    aliases = any(argument.alias_info is not None for argument in target._schema.arguments)
    return not (aliases and target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd))


def _out_of_place(node: fx.Node, target: Any) -> None:
    """``relu_`` becomes ``relu``, where nothing but the node's own readers can see the difference."""
    source = node.args[0] if node.args else None
    pure = _counterpart(target)
    if pure is None or not isinstance(source, fx.Node) or not _is_fresh(source) or not _same_kind(source, node):
        raise _Unknown
    if any(_may_alias(user) for user in source.users if user < node):
        raise _Unknown
    later = [user for user in source.users if node < user]
    node.target = pure
    for user in later:
        user.replace_input_with(source, node)


@cache
def _counterpart(target: Any) -> Any:
    """The operator of the same name without the underscore, if it takes the same arguments."""
    namespace, name = target._schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None) if name.endswith("_") else None
    pure = getattr(packet, target._overloadname, None)
    if pure is None or pure._schema.is_mutable:
        return None
    arguments = [[(item.name, str(item.type)) for item in op._schema.arguments] for op in (target, pure)]
    return pure if arguments[0] == arguments[1] and _stays(pure) else None


def _is_fresh(node: fx.Node) -> bool:
    """Whether a value has memory of its own."""
    maker = node.args[0] if node.target is operator.getitem else node
    return isinstance(maker, fx.Node) and not _may_alias(maker)


def _may_alias(node: fx.Node) -> bool:
    """Whether a result may share the memory of an input."""
    target: Any = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return True
    tagged = torch.Tag.maybe_aliasing_or_mutating in target.tags
    return tagged or any(item.alias_info is not None for item in (*target._schema.arguments, *target._schema.returns))


def _same_kind(first: fx.Node, second: fx.Node) -> bool:
    """Whether writing in place changed neither dtype nor shape."""
    a, b = first.meta.get("val"), second.meta.get("val")
    both = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    return both and a.dtype == b.dtype and tuple(a.shape) == tuple(b.shape)  # type: ignore[union-attr]


def _call(node: fx.Node, target: Any, *args: Any, **kwargs: Any) -> None:
    node.target, node.args, node.kwargs = target, args, kwargs


def _gone(graph: fx.Graph, node: fx.Node) -> None:
    """What returns its argument is its argument, also to those that write into it; a result of the model is a copy."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if not any(user.op == "output" for user in node.users):
        node.replace_all_uses_with(source)
        graph.erase_node(node)
    elif any(map(_writes, (*node.users, *source.users))):
        raise _Unknown
    else:
        _call(node, aten.clone.default, source)


def _flatten(graph: fx.Graph, node: fx.Node) -> None:
    """And its inverse to a reshape, where at most one size is not known."""
    sizes: list[Any] = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
    if sizes.count(-1) > 1 or 0 in sizes:
        raise _Unknown
    _call(node, aten.reshape.default, node.args[0], sizes)


def _contiguous(graph: fx.Graph, node: fx.Node) -> None:
    """A copy, where nobody could tell it from what it may be."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if any(map(_writes, (*node.users, *source.users))):
        raise _Unknown
    _call(node, aten.clone.default, node.args[0], memory_format=torch.contiguous_format)


def _dropout(graph: fx.Graph, node: fx.Node) -> None:
    if len(node.args) != 3 or node.args[2]:
        raise _Unknown
    _gone(graph, node)


def _batch_norm(graph: fx.Graph, node: fx.Node) -> None:
    """To the form without statistics, whose first result it is."""
    if len(node.args) != 9:
        raise _Unknown
    x, weight, bias, mean, variance, training, momentum, eps, _ = node.args
    if training or mean is None or variance is None:
        raise _Unknown
    args = (x, weight, bias, mean, variance, momentum, eps)
    with graph.inserting_before(node):
        made = graph.call_function(aten._native_batch_norm_legit_no_training.default, args)
    made.meta = dict(node.meta)
    empty = node.meta["val"].new_empty(0)
    made.meta["val"] = (node.meta["val"], empty, empty)
    _call(node, operator.getitem, made, 0)


def _chunk(graph: fx.Graph, node: fx.Node) -> None:
    """To a split, where the length is known."""
    given: tuple[Any, ...] = (*node.args, 0)
    source, count, dim, *_ = given
    length = source.meta["val"].shape[dim]
    if node.kwargs or not isinstance(length, int) or length == 0 or len(node.meta["val"]) != count:
        raise _Unknown
    _call(node, aten.split.Tensor, source, -(-length // count), dim)


def _to(graph: fx.Graph, node: fx.Node) -> None:
    """A cast, or nothing."""
    source, out = node.args[0], node.meta["val"]
    assert isinstance(source, fx.Node)
    value = source.meta["val"]
    copies = [item for item in (*node.args[1:], *node.kwargs.values()) if isinstance(item, bool) and item]
    if copies or value.device != out.device or value.layout != out.layout:
        raise _Unknown
    if value.dtype == out.dtype:
        _gone(graph, node)
    else:
        _call(node, aten._to_copy.default, source, dtype=out.dtype)


def _writes(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


_RULES: dict[Any, Callable[[fx.Graph, fx.Node], None]] = {
    aten.flatten.using_ints: _flatten,
    aten.unflatten.int: _flatten,
    aten.contiguous.default: _contiguous,
    aten.dropout.default: _dropout,
    aten.feature_dropout.default: _dropout,
    aten.batch_norm.default: _batch_norm,
    aten.chunk.default: _chunk,
    aten.to.dtype: _to,
    aten.to.dtype_layout: _to,
    aten.to.device: _to,
}
