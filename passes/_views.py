"""Rules for reshape, squeeze, unsqueeze, permute and expand: one spelling each, chains merged."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import fx

from tersor.rewrite import AnyRule, Match, Plan, node_rule
from tersor.rewrite_values import (
    argument,
    arguments,
    fake,
    key,
    known,
    positional,
    positive,
    same_shape,
    same_size,
    tensor,
)

aten = torch.ops.aten

_ONE_ORDER = ("reshape", "view", "_unsafe_view", "unsqueeze", "squeeze")
_ELEMENTWISE = frozenset(
    {"add", "sub", "mul", "div", "maximum", "minimum", "where", "eq", "ne", "lt", "le", "gt", "ge"}
)


@node_rule("view", "_unsafe_view", "reshape", "view_copy", "_reshape_copy")
def one_reshape(match: Match) -> Plan:
    """Every view of sizes is a reshape with literal sizes, and -1 for the only one that is not known."""
    x, sizes = list(arguments(match.root).values())[:2]
    out = tensor(match.root)
    if isinstance(sizes, torch.dtype) or out is None or tensor(x) is None:
        return None
    wanted = reshape_sizes(sizes, out)
    if match.root.target is aten.reshape.default and list(sizes) == wanted:
        return None
    return lambda: match.call(aten.reshape.default, x, wanted)


def reshape_sizes(sizes: Any, out: torch.Tensor) -> list[Any]:
    """Sizes for a reshape to ``out``; symbolic ones as given, a single one as -1."""
    wanted = [known(size) if known(size) is not None else given for given, size in zip(sizes, out.shape, strict=True)]
    unknown = [i for i, size in enumerate(out.shape) if known(size) is None]
    if len(unknown) == 1 and 0 not in wanted:
        wanted[unknown[0]] = -1
    return wanted


@node_rule("reshape", "squeeze", "unsqueeze")
def chain_of_reshapes(match: Match) -> Plan:
    """What a chain of reshapes restores is the chain's start; a reshape needs only the start."""
    node, x = match.root, argument(match.root, "self")
    top = x
    out = tensor(node)
    while isinstance(top, fx.Node) and out is not None:
        found = tensor(top)
        if found is not None and same_shape(found.shape, out.shape):
            return partial(_same, top)
        if key(top) not in _ONE_ORDER or isinstance(arguments(top).get("dtype"), torch.dtype):
            break
        top = argument(top, "self")
    if key(node) != "reshape" or top is x or key(x) not in _ONE_ORDER:
        return None
    return lambda: match.call(aten.reshape.default, top, positional(node)[1])


def _same(node: fx.Node) -> fx.Node:
    return node


@node_rule("squeeze", "unsqueeze")
def squeezed_reshape(match: Match) -> Plan:
    """A size of 1 added or removed after a reshape is part of the reshape."""
    node, inner = match.root, argument(match.root, "self")
    out = tensor(node)
    if key(inner) != "reshape" or len(inner.users) != 1 or out is None:
        return None
    sizes = list(inner.args[1])
    if key(node) == "unsqueeze":
        sizes.insert(positive(argument(node, "dim"), len(sizes) + 1), 1)
    else:
        removed = _squeezed(node)
        sizes = [size for axis, size in enumerate(sizes) if axis not in removed]
    return lambda: match.call(aten.reshape.default, inner.args[0], reshape_sizes(sizes, out))


def _squeezed(node: fx.Node) -> list[int]:
    """The axes that a squeeze removes in the captured program."""
    before, after = tensor(argument(node, "self")), tensor(node)
    assert before is not None and after is not None
    dims = arguments(node).get("dim")
    listed = range(before.dim()) if dims is None else [dims] if isinstance(dims, int) else dims
    axes = sorted({positive(dim, before.dim()) for dim in listed})
    ones = [axis for axis in axes if known(before.shape[axis]) == 1]
    return ones if before.dim() - len(ones) == after.dim() else axes


@node_rule("squeeze", "squeeze_copy")
def one_squeeze(match: Match) -> Plan:
    """Every squeeze names the axes that it removes, counted from the front."""
    node = match.root
    if tensor(node) is None or tensor(argument(node, "self")) is None:
        return None
    axes = _squeezed(node)
    if node.target is aten.squeeze.dims and list(positional(node)[1]) == axes:
        return None
    x = argument(node, "self")
    return lambda: match.call(aten.squeeze.dims, x, axes) if axes else x


@node_rule("unsqueeze")
def one_unsqueeze(match: Match) -> Plan:
    """An unsqueezed axis is counted from the front."""
    x, dim = match.args
    out = tensor(match.root)
    if dim >= 0 or out is None:
        return None
    return lambda: match.call(aten.unsqueeze.default, x, positive(dim, out.dim()))


def permutation(node: Any) -> list[int] | None:
    """The order of axes that a transpose of any spelling gives, or None for other nodes."""
    out = tensor(node)
    if out is None:
        return None
    order = list(range(out.dim()))
    name = key(node)
    if name == "permute":
        return [positive(dim, out.dim()) for dim in positional(node)[1]]
    if name in ("t", "numpy_T"):
        return order[::-1]
    if name in ("transpose", "swapaxes", "swapdims", "mT", "adjoint"):
        first, second = positional(node)[1:] if len(positional(node)) == 3 else (-2, -1)
        order[first], order[second] = order[second], order[first]
        return order
    return None


@node_rule("permute", "transpose", "t", "numpy_T", "swapaxes", "swapdims", "mT")
def one_permute(match: Match) -> Plan:
    """Every transpose is a permute with axes from the front; a chain of them is one, or none."""
    node = match.root
    order, x = permutation(node), positional(node)[0]
    if order is None:
        return None
    inner = permutation(x)
    if inner is not None:
        order, x = [inner[axis] for axis in order], x.args[0]
    if order == sorted(order):
        return lambda: x
    if node.target is aten.permute.default and list(positional(node)[1]) == order and x is positional(node)[0]:
        return None
    return lambda: match.call(aten.permute.default, x, order)


@node_rule("expand", "expand_copy", "expand_as", "broadcast_to")
def one_expand(match: Match) -> Plan:
    """An expand names only the axes that it stretches, and is dropped where it stretches none."""
    x = match.args[0]
    before, out = tensor(x), tensor(match.root)
    if before is None or out is None:
        return None
    if same_shape(before.shape, out.shape):
        return lambda: x
    if key(match.root) == "expand_as":
        return None
    given = list(match.args[1])
    extra = out.dim() - before.dim()
    sizes = [
        -1 if axis >= extra and same_size(before.shape[axis - extra], size) else known(size) or given[axis]
        for axis, size in enumerate(out.shape)
    ]
    if match.root.target is aten.expand.default and sizes == given:
        return None
    return lambda: match.call(aten.expand.default, x, sizes)


@node_rule("expand")
def implicit_expand(match: Match) -> Plan:
    """An expand is dropped where every reader broadcasts to the same shape without it."""
    node = match.root
    x, out = positional(node)[0], tensor(node)
    # A tensor without axes promotes dtypes like a number, so its expand matters.
    if out is None or not fake(x).dim() or not node.users:
        return None
    if not all(_broadcasts_anyway(user, node, out) for user in node.users):
        return None

    def drop() -> fx.Node:
        for user in list(node.users):
            user.replace_input_with(node, x)
        return node

    return drop


def _broadcasts_anyway(user: fx.Node, node: fx.Node, out: torch.Tensor) -> bool:
    if key(user) not in _ELEMENTWISE:
        return False
    others = [tensor(item) for item in positional(user) if isinstance(item, fx.Node) and item is not node]
    return any(other is not None and same_shape(other.shape, out.shape) for other in others)


RULES: tuple[AnyRule, ...] = (
    one_reshape,
    chain_of_reshapes,
    squeezed_reshape,
    one_squeeze,
    one_unsqueeze,
    one_permute,
    one_expand,
    implicit_expand,
)
