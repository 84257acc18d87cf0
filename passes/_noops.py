"""Rules that drop operators which change nothing: identities of arithmetic, copies, casts, dropout, pads of zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from tersor.rewrite import AnyRule, Match, Plan, is_returned, node_rule
from tersor.rewrite_values import arguments, key, known, positional, same_type, scalar, tensor

aten = torch.ops.aten

_VIEWS = frozenset(
    {"reshape", "view", "permute", "transpose", "t", "slice", "select", "expand", "unsqueeze", "squeeze", "unbind",
     "split", "split_with_sizes", "chunk", "getitem", "alias", "detach", "_unsafe_view"}
)  # fmt: skip
_NEED_STRIDES = frozenset({"as_strided", "view_as_complex", "view_as_real"})


def same(match: Match, x: Any) -> Plan:
    """Let ``x`` stand for the root, where it has its shape and dtype and is not returned, too."""
    if not isinstance(x, fx.Node) or not same_type(x, match.root):
        return None
    if is_returned(match.root) and (x.op != "call_function" or is_returned(x)):
        return None
    return lambda: x


def needs_strides(node: fx.Node) -> bool:
    """Whether a reader, perhaps behind views, depends on the memory layout of ``node``."""
    waiting, seen = list(node.users), set()
    while waiting:
        user = waiting.pop()
        if user in seen:
            continue
        seen.add(user)
        name = key(user)
        if name in _NEED_STRIDES or "::" in name or (name == "view" and isinstance(positional(user)[1], torch.dtype)):
            return True
        if name in _VIEWS:
            waiting.extend(user.users)
    return False


@node_rule("clone", "contiguous", "alias", "detach", "lift_fresh_copy", "lift", "alias_copy", "detach_copy", "positive")
def copy(match: Match) -> Plan:
    """A copy in another memory layout is no other value."""
    if needs_strides(match.root):
        return None
    return same(match, match.args[0])


@node_rule("_to_copy", "to", "type_as", "_conj", "resolve_conj", "resolve_neg")
def cast(match: Match) -> Plan:
    """A cast to the tensor's own dtype and device."""
    x, out = match.args[0], tensor(match.root)
    found = tensor(x)
    if found is None or out is None or found.device != out.device or found.layout != out.layout:
        return None
    if needs_strides(match.root):
        return None
    return same(match, x)


@node_rule("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
def dropout(match: Match) -> Plan:
    """Dropout outside training, or with probability zero."""
    given = arguments(match.root)
    return same(match, given["input"]) if not given["train"] or given["p"] == 0 else None


@node_rule("pad", "constant_pad_nd")
def empty_pad(match: Match) -> Plan:
    """A pad by zero on every side."""
    x, widths = match.args[:2]
    return same(match, x) if all(isinstance(width, int) and width == 0 for width in widths) else None


@node_rule("add", "sub")
def zero(match: Match) -> Plan:
    """Addition of zero; minus zero would become plus zero, which compares equal."""
    first, second, *_ = arguments(match.root).values()
    if scalar(match.program, second) == 0:
        return same(match, first)
    if key(match.root) == "add" and scalar(match.program, first) == 0:
        return same(match, second)
    return None


@node_rule("mul", "div", "pow")
def one(match: Match) -> Plan:
    """Multiplication by, division by, and power of one."""
    given = arguments(match.root)
    first, second, *_ = given.values()
    if given.get("rounding_mode") is not None:
        return None
    if scalar(match.program, second) == 1:
        return same(match, first)
    if key(match.root) == "mul" and scalar(match.program, first) == 1:
        return same(match, second)
    return None


@node_rule("relu", "abs", "clamp", "ceil", "floor", "round", "trunc", "sign")
def repeated(match: Match) -> Plan:
    """The second of two equal idempotent operators."""
    x = match.args[0]
    if not isinstance(x, fx.Node) or x.target is not match.root.target or x.args[1:] != match.args[1:]:
        return None
    bounds = [bound for bound in match.args[1:] if bound is not None]
    if any(isinstance(bound, fx.Node) for bound in bounds) or bounds != sorted(bounds):
        return None
    return same(match, x) if x.kwargs == match.root.kwargs else None


@node_rule("neg", "reciprocal", "bitwise_not", "logical_not", "flip")
def twice(match: Match) -> Plan:
    """Two involutions in a row."""
    x = match.args[0]
    if not isinstance(x, fx.Node) or x.target is not match.root.target or x.args[1:] != match.args[1:]:
        return None
    if key(x) == "reciprocal":
        return "1 / (1 / x) rounds twice, and loses subnormal numbers"
    return same(match, x.args[0])


@node_rule("repeat", "tile")
def repeated_once(match: Match) -> Plan:
    """A repeat by one along every axis."""
    counts = match.args[1]
    return same(match, match.args[0]) if all(count == 1 for count in counts) else None


@node_rule("roll")
def no_roll(match: Match) -> Plan:
    """A roll by zero."""
    shifts = match.args[1]
    return same(match, match.args[0]) if all(isinstance(s, int) and s == 0 for s in shifts) else None


@node_rule("mean", "sum", "amax", "amin")
def single_element(match: Match) -> Plan:
    """A reduction over axes of size one that keeps them."""
    given = arguments(match.root)
    x, source = given["self"], tensor(given["self"])
    dims = given.get("dim")
    if source is None or not given.get("keepdim") or dims is None:
        return None
    axes = [dims] if isinstance(dims, int) else list(dims)
    if not axes or any(known(source.shape[axis]) != 1 for axis in axes):
        return None
    return same(match, x)


@node_rule("slice_scatter")
def whole_scatter(match: Match) -> Plan:
    """A slice written over all of a tensor; `x[:, :n] += y` leaves one where n is the whole size."""
    given = arguments(match.root)
    return same(match, given["src"]) if given["step"] == 1 else None


COPIES: tuple[AnyRule, ...] = (copy, cast, dropout, empty_pad)
IDENTITIES: tuple[AnyRule, ...] = (
    zero,
    one,
    repeated,
    twice,
    repeated_once,
    no_roll,
    single_element,
    whole_scatter,
)
RULES: tuple[AnyRule, ...] = (*COPIES, *IDENTITIES)
