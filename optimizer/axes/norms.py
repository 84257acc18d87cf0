"""Flow through normalisations and reductions: which dimensions pass, which are computed over as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from tersor.axes.elementwise import elementwise
from tersor.axes.flow import Dims, Flow, Meaning, Value, fresh_value, rule, where
from tersor.axes.meaning import ranks, result
from tersor.axes.select import length
from tersor.axes.terms import UNIT, pin, quotient, size
from tersor.rewrite_values import argument, arguments, fake


@rule("batch_norm", "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
      "_native_batch_norm_legit_functional")  # fmt: skip
def batch_norm(node: fx.Node, flow: Flow) -> Value:
    """Every channel by itself; in training over all its values, otherwise with its own scale, shift and statistics."""
    source, given = flow.dims(node.args[0]), arguments(node)
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(given.get(name), fx.Node):
            flow.tie(source[1], flow.dims(given[name])[0])
    if given.get("training"):
        for term in (source[0], *source[2:]):
            flow.span(node, term)
    flow.role(node, "scale", source[1])
    value = node.meta["val"]
    if not isinstance(value, list | tuple):
        return source
    return [source, *((source[1],) if item.numel() else fresh_value(item) for item in value[1:])]


@rule("layer_norm", "rms_norm", "native_layer_norm", "_fused_rms_norm")
def layer_norm(node: fx.Node, flow: Flow) -> Value:
    """Statistics over the last dimensions, which the scale and shift share."""
    source = flow.dims(node.args[0])
    count = len(node.args[1])  # type: ignore[arg-type]
    for item in node.args[2:4]:
        if isinstance(item, fx.Node):
            for left, right in zip(source[-count:], flow.dims(item), strict=True):
                flow.tie(left, right)
    for term in source[-count:]:
        flow.span(node, term)
        flow.role(node, "norm", term)
    flow.sizes(node, "normalized_shape", source[-count:])
    value = node.meta["val"]
    if not isinstance(value, list | tuple):
        return source
    return [source, *[(*source[:-count], *(UNIT,) * count)] * (len(value) - 1)]


@rule("group_norm")
def group_norm(node: fx.Node, flow: Flow) -> Value:
    """Channels are ``(group, rest)``; statistics are over the rest."""
    given = arguments(node)
    source = flow.dims(node.args[0])
    groups = int(given.get("num_groups", given.get("group")))  # type: ignore[arg-type]
    group, rest = flow.split(source[1], quotient(size(source[1]), groups) or 1)
    for name in ("weight", "bias"):
        if given.get(name) is not None:
            flow.tie(source[1], flow.dims(given[name])[0])
    flow.span(node, rest)
    flow.role(node, "norm", rest)
    flow.literal(node, "num_groups", lambda kept: length(group, kept))
    for term in source[2:]:
        pin(term, where(node, "positions of a group norm"))
    return source


@rule("instance_norm")
def instance_norm(node: fx.Node, flow: Flow) -> Value:
    """Every channel by itself."""
    source = flow.dims(node.args[0])
    for item in node.args[1:5]:
        if isinstance(item, fx.Node):
            flow.tie(source[1], flow.dims(item)[0])
    for term in source[2:]:
        pin(term, where(node, "positions of an instance norm"))
    return source


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax")
def softmax(node: fx.Node, flow: Flow) -> Value:
    """All positions of one dimension share a denominator."""
    source = flow.dims(node.args[0])
    flow.span(node, source[reduced(node, len(source))[0]])
    return source


@rule("sum", "nansum", "count_nonzero", "linalg_vector_norm", "norm")
def summed(node: fx.Node, flow: Flow) -> Value:
    """Dimensions that are summed over: an index that is left out adds nothing."""
    source = flow.dims(node.args[0])
    along = reduced(node, len(source))
    given = arguments(node)
    if _number(given.get("ord", given.get("p"))) < 0:
        return statistic(node, flow)
    if not ranks(node, flow):
        for dim in along:
            flow.contract(node, node.args[0], dim)  # type: ignore[arg-type]
    return reduce(source, along, node)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 2.0


@rule("mean", "var", "std", "var_mean", "std_mean", "amax", "amin", "max", "min", "logsumexp", "prod", "any", "all",
      "median", "nanmean", "aminmax")  # fmt: skip
def statistic(node: fx.Node, flow: Flow) -> Value:
    """Dimensions that a statistic is taken over as a whole."""
    source = flow.dims(node.args[0])
    given = arguments(node)
    if isinstance(given.get("other"), fx.Node):
        return elementwise(node, flow)
    along = reduced(node, len(source))
    for dim in along:
        flow.span(node, source[dim])
    value = node.meta["val"]
    if not isinstance(value, list | tuple):
        return reduce(source, along, node)
    if node.target.overloadpacket.__name__ in ("max", "min", "median"):  # type: ignore[union-attr]
        flow.meanings[result(node, 1)] = Meaning("position", source[along[0]])
    return [reduce(source, along, node)] * len(value)


@rule("_weight_norm", "_weight_norm_interface")
def weight_norm(node: fx.Node, flow: Flow) -> Value:
    """A weight with its length along one dimension replaced: the others are computed over as a whole."""
    weight, lengths = flow.dims(node.args[0]), flow.dims(node.args[1])
    dim = int(argument(node, "dim")) % len(weight)
    for index, term in enumerate(weight):
        if index != dim:
            flow.span(node, term)
    flow.tie(weight[dim], next((term for term in lengths if size(term) != 1), weight[dim]))
    return [weight, lengths] if isinstance(node.meta["val"], list | tuple) else weight


def reduced(node: fx.Node, rank: int) -> list[int]:
    """The dimensions that a reduction names, all of them where it names none."""
    dims = arguments(node).get("dim")
    if dims is None or (isinstance(dims, Sequence) and not dims):
        return list(range(rank))
    return [int(dim) % max(rank, 1) for dim in (dims if isinstance(dims, Sequence) else [dims])]


def reduce(source: Dims, along: list[int], node: fx.Node) -> Dims:
    """What is left of dimensions when some are reduced away, or to size 1."""
    value: Any = node.meta["val"]
    first = value[0] if isinstance(value, list | tuple) else fake(node)
    if len(first.shape) == len(source):
        return tuple(UNIT if index in along else term for index, term in enumerate(source))
    return tuple(term for index, term in enumerate(source) if index not in along)
