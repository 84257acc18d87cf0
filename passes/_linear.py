"""Rules that recognise linear layers in matrix products with constant weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from tersor.rewrite import AnyRule, Match, Plan, Rule, node_rule
from tersor.rewrite_values import arguments, is_floating, key, positional, same_shape, tensor

aten = torch.ops.aten

_PRODUCTS = ("matmul", "mm", "addmm")


@node_rule("matmul", "mm", "linear")
def product_with_weight(match: Match) -> Plan:
    """A matrix product with a constant matrix on the right is a linear layer without bias."""
    if key(match.root) == "linear":
        return None
    x, right = match.args
    build = _linear_weight(match, x, right)
    if build is None or isinstance(build, str):
        return build
    return lambda: match.call(aten.linear.default, x, build())


@node_rule("addmm")
def biased_product(match: Match) -> Plan:
    """``bias + x @ weight`` with a bias per output feature."""
    bias, x, right, *scales = arguments(match.root).values()
    shift = tensor(bias)
    if any(scale != 1 for scale in scales) or shift is None:
        return None
    build = _linear_weight(match, x, right)
    if build is None or isinstance(build, str):
        return build
    out = tensor(match.root)
    if shift.dim() != 1 or out is None or not same_shape(shift.shape, out.shape[-1:]):
        return lambda: match.call(aten.add.Tensor, match.call(aten.linear.default, x, build()), bias)
    return lambda: match.call(aten.linear.default, x, build(), bias)


@node_rule("einsum")
def einsum_with_weight(match: Match) -> Plan:
    """An einsum that contracts the last axis with a constant matrix."""
    equation, operands = match.args[:2]
    terms, _, result = str(equation).replace(" ", "").partition("->")
    letters = terms.split(",")
    if len(letters) != 2 or not result or len(letters[1]) != 2 or len(operands) != 2:
        return None
    first, second = letters
    x, right = operands
    lead, contracted = first[:-1], first[-1:]
    if contracted not in second or len(set(first)) != len(first):
        return None
    other = second.replace(contracted, "")
    if len(other) != 1 or other in first or result != lead + other or match.weight(right) is None:
        return None
    if second == other + contracted:
        return lambda: match.call(aten.linear.default, x, right)
    build = _linear_weight(match, x, right)
    if build is None or isinstance(build, str):
        return build
    return lambda: match.call(aten.linear.default, x, build())


def _linear_weight(match: Match, x: Any, right: Any) -> Any:
    """How to get ``right`` transposed as a weight node; a refusal; or None where this is no linear layer."""
    found = tensor(x)
    if found is None or found.dim() < 1 or not is_floating(x) or match.weight(x) is not None:
        return None
    if key(right) == "permute" and match.weight(right.args[0]) is not None and list(right.args[1]) == [1, 0]:
        return lambda: right.args[0]
    weight = match.weight(right)
    if weight is None or weight.dim() != 2 or weight.dtype != found.dtype:
        return None
    others = [user for user in right.users if user is not match.root and not _multiplies_by(user, right)]
    if others:
        return f"weight {right.target} is read by {others[0].name} too; a transposed copy would duplicate it"
    return lambda: _transposed(match, right, weight)


def _multiplies_by(user: fx.Node, right: fx.Node) -> bool:
    return key(user) in _PRODUCTS and right in positional(user)[1:]


def _transposed(match: Match, node: fx.Node, weight: torch.Tensor) -> fx.Node:
    """A tied weight is transposed once."""
    name = f"{node.target}_transposed"
    stored = match.program.weights.get(name)
    if isinstance(stored, torch.Tensor) and stored.shape == weight.t().shape and torch.equal(stored, weight.t()):
        made = match.new_weight(name, stored)
        del match.program.weights[str(made.target)]
        made.target = name
        return made
    return match.new_weight(name, weight.t().contiguous())


def _bias_check(match: Match) -> str | None:
    bias, out = match.weight(match["bias"]), tensor(match.root)
    if bias is None or out is None:
        return ""
    wide = [1] * (out.dim() - bias.dim()) + list(bias.shape)
    if bias.dtype != out.dtype or len(wide) != out.dim() or wide[-1] != out.shape[-1] or any(n != 1 for n in wide[:-1]):
        return "the constant added is not one number per output feature"
    return None


def _with_bias(match: Match) -> Any:
    bias = match.weight(match["bias"])
    assert bias is not None
    node = match["bias"] if bias.dim() == 1 else match.new_weight(f"{match['bias'].target}", bias.reshape(-1))
    return match.call(aten.linear.default, match["x"], match["weight"], node)


@node_rule("reshape")
def flattened_linear(match: Match) -> Plan:
    """A linear layer on flattened rows, put back in shape, is one on the last axis."""
    linear, out = match.args[0], tensor(match.root)
    if not isinstance(linear, fx.Node) or key(linear) != "linear" or len(linear.users) != 1 or out is None:
        return None
    flat = positional(linear)[0]
    if key(flat) != "reshape":
        return None
    x = positional(flat)[0]
    source, features = tensor(x), tensor(linear)
    rows = tensor(flat)
    if source is None or features is None or rows is None or rows.dim() != 2 or source.dim() != out.dim():
        return None
    kept = same_shape(source.shape[:-1], out.shape[:-1]) and same_shape(source.shape[-1:], rows.shape[-1:])
    if not kept or not same_shape(out.shape[-1:], features.shape[-1:]):
        return None
    return lambda: match.call(aten.linear.default, x, *positional(linear)[1:])


RULES: tuple[AnyRule, ...] = (
    product_with_weight,
    biased_product,
    einsum_with_weight,
    flattened_linear,
    Rule(
        "bias of a linear layer",
        lambda x, weight, bias: aten.linear(x, weight) + bias,
        _with_bias,
        _bias_check,
    ),
)
