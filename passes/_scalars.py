"""Rules for arithmetic with one number: literals instead of one-element weights, one spelling for powers and bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import fx

from tersor.rewrite import AnyRule, Match, Plan, Rule, node_rule
from tersor.rewrite_values import arguments, fake, is_floating, key, known, positional, positive, scalar, tensor

aten = torch.ops.aten

_SCALAR_FORMS: dict[str, Callable[..., Any]] = {
    "add": aten.add.Tensor,
    "sub": aten.sub.Tensor,
    "mul": aten.mul.Tensor,
    "div": aten.div.Tensor,
    "pow": aten.pow.Tensor_Scalar,
    "eq": aten.eq.Scalar,
    "ne": aten.ne.Scalar,
    "lt": aten.lt.Scalar,
    "le": aten.le.Scalar,
    "gt": aten.gt.Scalar,
    "ge": aten.ge.Scalar,
}
_SWAPPED = {"add": "add", "mul": "mul", "eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


@node_rule(*_SCALAR_FORMS)
def literal(match: Match) -> Plan:
    """A one-element weight is a literal, on the right, where neither shape nor dtype depends on its being a tensor."""
    node, name = match.root, key(match.root)
    first, second, *rest = arguments(node).values()
    if any(item not in (1, None) for item in rest):
        return None
    for x, other, target in ((first, second, name), (second, first, _SWAPPED.get(name))):
        number = _literal_for(match, x, other)
        if number is not None and target:
            return partial(match.call, _SCALAR_FORMS[target], x, number)
    number = _literal_for(match, second, first)
    if number is not None and name == "sub":
        return lambda: match.call(aten.rsub.Scalar, second, number)
    if number == 1 and name == "div" and is_floating(second):
        return lambda: match.call(aten.reciprocal.default, second)
    return None


def _literal_for(match: Match, x: Any, other: Any) -> float | int | bool | None:
    """The number in ``other`` where it can stand beside ``x`` without changing dtype or shape."""
    found, weight = tensor(x), match.weight(other)
    if found is None or weight is None or weight.dtype != found.dtype or weight.dim() > found.dim():
        return None
    return scalar(match.program, other)


@node_rule(
    "maximum", "minimum", "clamp_min", "clamp_max", "hardtanh", "hardtanh_", "relu6", "clamp", "clip", "threshold"
)
def one_clamp(match: Match) -> Plan:
    """Every bound is a clamp with literal bounds, and relu where it is zero from below."""
    bounds = _bounds(match)
    if bounds is None:
        return None
    x, low, high = bounds
    if low == 0 and high is None and is_floating(x):
        return lambda: match.call(aten.relu.default, x)
    inner = _inner_bounds(x)
    if inner is not None:
        low, high = _tighter(low, inner[1], max), _tighter(high, inner[2], min)
        crossed = low is not None and high is not None and low > high
        if not crossed:
            return lambda: match.call(aten.clamp.default, inner[0], low, high)
    wanted = (x, low) if high is None else (x, low, high)
    if match.root.target is aten.clamp.default and match.args == wanted:
        return None
    return lambda: match.call(aten.clamp.default, *wanted)


def _bounds(match: Match) -> tuple[fx.Node, Any, Any] | None:
    node, name = match.root, key(match.root)
    given = list(arguments(node).values())
    if name in ("maximum", "minimum"):
        for x, other in (given, given[::-1]):
            number = _literal_for(match, x, other)
            if number is not None:
                return (x, number, None) if name == "maximum" else (x, None, number)
        return None
    if name == "threshold":
        return None
    x, *limits = given
    low, high = {"relu6": (0, 6), "clamp_max": (None, *limits)}.get(name) or (*limits, None)[:2]
    limits = [scalar(match.program, bound) for bound in (low, high)]
    if any(found is None and bound is not None for found, bound in zip(limits, (low, high), strict=True)):
        return None
    out = tensor(node)
    if out is None or tensor(x) is None or out.dtype != fake(x).dtype:
        return None
    return x, limits[0], limits[1]


def _inner_bounds(x: Any) -> tuple[fx.Node, Any, Any] | None:
    if not isinstance(x, fx.Node) or len(x.users) != 1:
        return None
    if key(x) == "relu":
        return positional(x)[0], 0, None
    if x.target is aten.clamp.default and not any(isinstance(bound, fx.Node) for bound in x.args[1:]):
        inner, low, high = (*positional(x), None, None)[:3]
        return inner, low, high
    return None


def _tighter(a: Any, b: Any, choose: Callable[..., Any]) -> Any:
    return choose(a, b) if a is not None and b is not None else b if a is None else a


@node_rule("pow", "square", "sub", "div", "mul", "add")
def one_arithmetic(match: Match) -> Plan:
    """Small powers, differences and quotients by a literal are products, sums and roots where that loses nothing."""
    x = match.args[0]
    if not isinstance(x, fx.Node) or not is_floating(x) or match.root.kwargs:
        return None
    if key(match.root) == "square":
        return lambda: match.call(aten.mul.Tensor, x, x)
    number = match.args[1]
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    plain = _plain(key(match.root), x, number)
    if plain is None or (plain[0] is match.root.target and _same_literal(plain[1:], match.args)):
        return None
    return lambda: match.call(*plain)


def _same_literal(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return all(
        x is y or (type(x) is type(y) and not isinstance(x, fx.Node) and x == y) for x, y in zip(a, b, strict=True)
    )


def _plain(name: str, x: fx.Node, number: float) -> tuple[Any, ...] | None:
    if name == "pow":
        powers = {2: (aten.mul.Tensor, x, x), 0.5: (aten.sqrt.default, x), -0.5: (aten.rsqrt.default, x)}
        return powers.get(number) or ((aten.reciprocal.default, x) if number == -1 else None)
    if name == "sub":
        return aten.add.Tensor, x, -float(number)
    # A quotient by a power of two is exactly the product with its inverse.
    if name == "div" and number and math.frexp(abs(number))[0] == 0.5 and abs(math.log2(abs(number))) < 14:
        return aten.mul.Tensor, x, 1.0 / number
    return _SCALAR_FORMS[name], x, float(number)


@node_rule("div", "mul")
def mean_of_sum(match: Match) -> Plan:
    """A sum divided by the number of its terms is a mean."""
    total, number = match.args[0], scalar(match.program, match.args[1])
    if key(total) != "sum" or number is None or len(total.users) != 1:
        return None
    given = arguments(total)
    x = tensor(given["self"])
    dims = given.get("dim")
    if x is None or dims is None or given.get("dtype") is not None or not x.dtype.is_floating_point:
        return None
    sizes = [known(x.shape[axis]) for axis in dims]
    if None in sizes or not sizes:
        return None
    count = math.prod(size for size in sizes if size is not None)
    factor = 1 / number if key(match.root) == "div" and number else number
    if not math.isclose(factor * count, 1, rel_tol=1e-6):
        return None
    return lambda: match.call(aten.mean.dim, given["self"], list(dims), bool(given["keepdim"]))


@node_rule("mean", "sum", "amax", "amin", "prod", "softmax", "log_softmax", "cumsum", "argmax", "argmin", "max", "min")
def one_reduction(match: Match) -> Plan:
    """Axes of reductions count from the front, and no dtype is named that they have anyway."""
    node, given = match.root, dict(arguments(match.root))
    x, dims = tensor(given.get("self")), given.get("dim")
    listed = [dims] if isinstance(dims, int) else dims
    if x is None or not listed:
        return None
    needless = x.dtype.is_floating_point and given.get("dtype") == x.dtype
    if not needless and all(dim >= 0 for dim in listed):
        return None
    front = [positive(dim, x.dim()) for dim in listed]
    names = list(given)
    place, last = names.index("dim"), names.index("dtype") if needless else len(names)
    wanted = (*match.args[:place], front[0] if isinstance(dims, int) else front, *match.args[place + 1 : last])
    dropped = ("dim", "dtype") if needless else ("dim",)
    return lambda: match.call(node.target, *wanted, **{k: v for k, v in node.kwargs.items() if k not in dropped})


@node_rule("var", "std")
def one_variance(match: Match) -> Plan:
    """Every variance has explicit axes and a correction."""
    node, given = match.root, arguments(match.root)
    x = tensor(given["self"])
    if x is None or node.target in (aten.var.correction, aten.std.correction) or "names" in str(node.target):
        return None
    dims = given.get("dim") or list(range(x.dim()))
    target = aten.var.correction if key(node) == "var" else aten.std.correction
    options = {"correction": int(given["unbiased"]), "keepdim": bool(given.get("keepdim", False))}
    return lambda: match.call(target, given["self"], [positive(dim, x.dim()) for dim in dims], **options)


@node_rule("matmul", "bmm")
def one_scale(match: Match) -> Plan:
    """Where both factors of a product are scaled, one is, by both numbers: torch.onnx.export divides attention's so."""
    left, right = (*map(_scaled, match.args), None, None)[:2]
    if left is None or right is None:
        return None
    (first, one), (second, other) = left, right
    return lambda: match.call(match.root.target, match.call(aten.mul.Tensor, first, one * other), second)


def _scaled(factor: Any) -> tuple[fx.Node, float] | None:
    """What is multiplied with a literal for this one reader, and the literal."""
    if key(factor) != "mul" or len(factor.users) != 1 or not is_floating(factor):
        return None
    x, number = positional(factor)[:2]
    plain = isinstance(x, fx.Node) and isinstance(number, float) and fake(x).dtype == fake(factor).dtype
    return (x, number) if plain else None


RULES: tuple[AnyRule, ...] = (
    literal,
    one_clamp,
    one_arithmetic,
    mean_of_sum,
    one_reduction,
    one_variance,
    one_scale,
    Rule(
        "reciprocal of a square root",
        lambda x: aten.reciprocal(aten.sqrt(x)),
        lambda x: aten.rsqrt.default(x),
    ),
    Rule(
        "product with a reciprocal",
        lambda x, y: x * aten.reciprocal(y),
        lambda x, y: aten.div.Tensor(x, y),
        lambda match: None if tensor(match["x"]) is not None else "",
    ),
)
