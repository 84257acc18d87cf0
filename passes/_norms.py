"""Rules that recognise normalisations spelled out in arithmetic, and give batch norm one spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from tersor.rewrite import AnyRule, Match, Plan, Rule, node_rule
from tersor.rewrite_values import arguments, is_floating, known, positional, positive, tensor

aten = torch.ops.aten


def _variance(centred: Any, x: Any, dims: Any) -> Any:
    return aten.mean(centred * centred, dims, True)


def _library_variance(centred: Any, x: Any, dims: Any) -> Any:
    return aten.var.correction(x, dims, correction=0, keepdim=True)


def _quotient(x: Any, variance: Any) -> Any:
    return x / aten.sqrt(variance)


def _product(x: Any, variance: Any) -> Any:
    return x * aten.rsqrt(variance)


def _centred_norm(variance: Callable[..., Any], scaled: Callable[..., Any]) -> Callable[..., Any]:
    def pattern(x: Any, dims: Any, eps: Any) -> Any:
        centred = x - aten.mean(x, dims, True)
        return scaled(centred, variance(centred, x, dims) + eps)

    return pattern


def _root_mean_square_norm(scaled: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, dims, eps: scaled(x, aten.mean(x * x, dims, True) + eps)


def _norm_check(match: Match) -> str | None:
    x, dims, eps = tensor(match["x"]), match["dims"], match["eps"]
    if x is None or not isinstance(eps, int | float) or not isinstance(dims, int | list | tuple):
        return ""
    axes = sorted(positive(axis, x.dim()) for axis in ([dims] if isinstance(dims, int) else dims))
    last = axes == list(range(x.dim() - len(axes), x.dim()))
    if not last and len(axes) != 1:
        return f"normalised over axes {axes} of {x.dim()}, a norm layer takes the last ones"
    if any(known(x.shape[axis]) is None for axis in axes):
        return "the normalised size differs from call to call"
    if x.dtype in (torch.float16, torch.bfloat16):
        return f"spelled out in {x.dtype}, which rounds every step; the fused norm works in float32"
    return None if is_floating(match.root) else ""


def _as_norm(match: Match, target: Any, *options: Any) -> fx.Node:
    """The norm over the last axes; over one other axis, between two permutes, which still spares four operators."""
    x, dims = match["x"], match["dims"]
    found = tensor(x)
    assert found is not None
    axes = sorted(positive(axis, found.dim()) for axis in ([dims] if isinstance(dims, int) else dims))
    shape = [int(found.shape[axis]) for axis in axes]
    if axes[-1] == found.dim() - 1:
        return match.call(target, x, shape, *options)
    order = [axis for axis in range(found.dim()) if axis != axes[0]] + axes
    norm = match.call(target, match.call(aten.permute.default, x, order), shape, *options)
    return match.call(aten.permute.default, norm, [order.index(axis) for axis in range(found.dim())])


def _as_layer_norm(match: Match) -> fx.Node:
    return _as_norm(match, aten.layer_norm.default, None, None, float(match["eps"]), False)


def _as_rms_norm(match: Match) -> fx.Node:
    return _as_norm(match, aten.rms_norm.default, None, float(match["eps"]))


def _affine_check(match: Match) -> str | None:
    shape, weight, out = match["shape"], match.weight(match["w"]), tensor(match.root)
    if weight is None or out is None:
        return ""
    if weight.dtype != out.dtype or weight.dim() > out.dim():
        return "scale or shift would change the norm's dtype or rank"
    padded = [1] * (len(shape) - weight.dim()) + list(weight.shape)
    lead, tail = padded[: len(padded) - len(shape)], padded[len(padded) - len(shape) :]
    if any(size != 1 for size in lead) or tail != list(shape):
        return None if weight.numel() == 1 else "scale or shift is not one number per normalised element"
    return None


def _fitted(match: Match) -> fx.Node:
    """The scale or shift in the normalised shape."""
    weight, shape = match.weight(match["w"]), list(match["shape"])
    assert weight is not None
    if list(weight.shape) == shape:
        return match["w"]
    return match.new_weight(
        f"{match['w'].target}", weight.expand(shape) if weight.numel() == 1 else weight.reshape(shape)
    )


def _scaled_layer_norm(match: Match) -> Any:
    return match.call(aten.layer_norm.default, match["x"], match["shape"], _fitted(match), None, match["eps"], False)


def _shifted_layer_norm(match: Match) -> Any:
    scale, shift = match["scale"], _fitted(match)
    if scale is None:
        kept = match.weight(shift)
        assert kept is not None
        scale = match.new_weight(f"{shift.target}_scale", torch.ones_like(kept))
    return match.call(aten.layer_norm.default, match["x"], match["shape"], scale, shift, match["eps"], False)


def _scaled_rms_norm(match: Match) -> Any:
    return match.call(aten.rms_norm.default, match["x"], match["shape"], _fitted(match), match["eps"])


@node_rule("layer_norm")
def one_layer_norm(match: Match) -> Plan:
    """A layer norm has all its arguments by position, and no cuDNN flag."""
    wanted = (*list(arguments(match.root).values())[:5], False)
    if match.args == wanted:
        return None
    return lambda: match.call(aten.layer_norm.default, *wanted)


@node_rule("getitem", "batch_norm")
def one_batch_norm(match: Match) -> Plan:
    """Batch norm in evaluation, of any spelling, is aten.batch_norm with running statistics."""
    node = match.root
    wanted = batch_norm_arguments(node)
    if wanted is None or (node.target is aten.batch_norm.default and positional(node) == wanted):
        return None
    return lambda: match.call(aten.batch_norm.default, *wanted)


def batch_norm_arguments(node: fx.Node) -> tuple[Any, ...] | None:
    """Arguments of aten.batch_norm for a node that is a batch norm in evaluation, or None."""
    if node.target is aten.batch_norm.default:
        given = arguments(node)
    else:
        source, index = positional(node)
        targets = (
            aten._native_batch_norm_legit_no_training.default,
            aten.native_batch_norm.default,
            aten._batch_norm_no_update.default,
            aten.cudnn_batch_norm.default,
        )
        if index != 0 or not isinstance(source, fx.Node) or source.target not in targets:
            return None
        given = arguments(source)
    if given.get("training") or given["running_mean"] is None:
        return None
    eps = given.get("eps", given.get("epsilon"))
    names = ("input", "weight", "bias", "running_mean", "running_var")
    return (*(given[name] for name in names), False, 0.0, eps, False)


RULES: tuple[AnyRule, ...] = (
    one_layer_norm,
    one_batch_norm,
    *(
        Rule("layer norm", _centred_norm(variance, scaled), _as_layer_norm, _norm_check)
        for variance in (_variance, _library_variance)
        for scaled in (_quotient, _product)
    ),
    *(Rule("rms norm", _root_mean_square_norm(scaled), _as_rms_norm, _norm_check) for scaled in (_quotient, _product)),
    Rule(
        "scale of a layer norm",
        lambda x, shape, eps, w: aten.layer_norm(x, shape, None, None, eps, False) * w,
        _scaled_layer_norm,
        _affine_check,
    ),
    Rule(
        "shift of a layer norm",
        lambda x, shape, scale, eps, w: aten.layer_norm(x, shape, scale, None, eps, False) + w,
        _shifted_layer_norm,
        _affine_check,
    ),
    Rule(
        "scale of an rms norm",
        lambda x, shape, eps, w: aten.rms_norm(x, shape, None, eps) * w,
        _scaled_rms_norm,
        _affine_check,
    ),
)
