"""How a layer's weights take in a constant scale and shift applied before or after the layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from tersor.convolution import CONVOLUTIONS, TRANSPOSED
from tersor.passes._affine import Affine
from tersor.passes._views import permutation
from tersor.passes._weights import shared_with
from tersor.rewrite import Match, Plan
from tersor.rewrite_values import arguments, fake, key, known, positional, tensor

LAYERS = ("linear", *CONVOLUTIONS, *TRANSPOSED, "batch_norm", "layer_norm")


@dataclass(frozen=True)
class Layer:
    """A node with a constant weight, and the views between it and where its result is scaled.

    Attributes:
        node: the layer.
        views: nodes from the layer's result to the place in question, in execution order.
    """

    node: fx.Node
    views: tuple[fx.Node, ...] = field(default=())


def layer_behind(x: Any) -> Layer | str | None:
    """The layer whose result ``x`` is, behind permutes and reshapes that keep the last axis; or why it cannot serve."""
    views: list[fx.Node] = []
    while isinstance(x, fx.Node) and (permutation(x) is not None or _keeps_last_axis(x)):
        views.insert(0, x)
        x = x.args[0]
    if key(x) not in LAYERS:
        return None
    for node in (x, *views):
        if len(node.users) != 1:
            return f"{node.name} is read by {len(node.users)} nodes"
    return Layer(x, tuple(views))


def _keeps_last_axis(node: fx.Node) -> bool:
    before, after = tensor(positional(node)[0]) if positional(node) else None, tensor(node)
    if key(node) not in ("reshape", "view") or before is None or after is None or not before.dim() or not after.dim():
        return False
    return known(before.shape[-1]) is not None and known(before.shape[-1]) == known(after.shape[-1])


def behind_views(layer: Layer, affine: Affine) -> Affine | None:
    """An affine on the viewed result as an affine on the layer's own result."""
    for view in reversed(layer.views):
        order = permutation(view)
        if order is not None:
            affine = affine.then([order.index(axis) for axis in range(len(order))])
            continue
        rank = fake(view.args[0]).dim()
        parts = []
        for part in (affine.scale, affine.shift):
            if part is not None and any(n != 1 for n in part.shape[:-1]):
                return None
            parts.append(None if part is None else part.reshape([1] * (rank - 1) + [part.shape[-1]]))
        affine = Affine(affine.source, *parts)
    return affine


def absorb_after(match: Match, layer: Layer, affine: Affine) -> Plan:
    """A plan that gives the layer's weights the scale and shift of ``affine``, which the root applies after it."""
    own = behind_views(layer, affine)
    node = layer.node
    taken = _after(match, node, own) if own is not None else None
    if taken is None:
        return "the constant is not one number per output channel of the layer"
    reason = _refusal(match, node, affine, taken)
    if reason:
        return reason

    def build() -> fx.Node:
        made = _with_weights(match, node, taken)
        for view in layer.views:
            made = match.call(view.target, made, *view.args[1:], **view.kwargs)
        return made

    return build


def _refusal(match: Match, node: fx.Node, affine: Affine, taken: dict[str, Tensor]) -> str | None:
    if not affine.is_finite():
        return "the constant is not finite, or divides by zero"
    given = arguments(node)
    for name in taken:
        other = shared_with(match.program, given[name], node)
        if other is not None:
            return f"{name} {given[name].target} is read by {other.name} too"
    dtype = fake(node).dtype
    if any(not bool(value.to(dtype).isfinite().all()) for value in taken.values()):
        return f"the new weights overflow {dtype}"
    return None


def _with_weights(match: Match, node: fx.Node, taken: dict[str, Tensor], source: Any = None) -> fx.Node:
    """The layer's call with some constants replaced, and perhaps with another input."""
    given = dict(arguments(node))
    dtype = fake(node).dtype
    stem = str(getattr(given.get("weight"), "target", node.name))
    for name, value in taken.items():
        label = str(given[name].target) if isinstance(given[name], fx.Node) else f"{stem}_{name}"
        given[name] = match.new_weight(label, value.to(dtype).contiguous())
    if source is not None:
        given["input"] = source
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    ordered = [given[item.name] for item in schema if not item.kwarg_only]
    return match.call(node.target, *ordered)


def _after(match: Match, node: fx.Node, affine: Affine | None) -> dict[str, Tensor] | None:
    """New constants of a layer whose result is scaled and shifted; None where they cannot express it."""
    given, out, name = arguments(node), tensor(node), key(node)
    assert out is not None and affine is not None
    if name == "layer_norm":
        return _after_layer_norm(match, given, affine, out)
    axis = _channel_axis(name, out)
    size = known(out.shape[axis])
    vectors = affine.along(axis, size) if size is not None else None
    weight, bias = match.weight(given["weight"]), match.weight(given["bias"])
    if vectors is None or (given["bias"] is not None and bias is None):
        return None
    scale, shift = vectors
    taken: dict[str, Tensor] = {}
    if weight is None and not (name == "batch_norm" and given["weight"] is None):
        return None
    if scale is not None:
        taken["weight"] = scale if weight is None else weight.double() * _output_scale(name, scale, weight, given)
    start = torch.zeros(out.shape[axis], dtype=torch.float64) if bias is None else bias.double()
    if shift is not None or bias is not None:
        taken["bias"] = (start if scale is None else start * scale) + (0 if shift is None else shift)
    if name == "batch_norm" and "bias" in taken and weight is None:
        taken.setdefault("weight", torch.ones_like(start))
    return taken


def _channel_axis(name: str, out: Tensor) -> int:
    """The axis of a layer's result that its bias runs along."""
    if name == "linear":
        return out.dim() - 1
    return out.dim() - 1 - int(name[-2]) if name[-1] == "d" else 1


def _output_scale(name: str, scale: Tensor, weight: Tensor, given: dict[str, Any]) -> Tensor:
    """A scale per output channel in the shape of the weight."""
    if name not in TRANSPOSED:
        return scale.reshape([-1] + [1] * (weight.dim() - 1))
    groups = int(given["groups"])
    inputs, outputs = weight.shape[0] // groups, weight.shape[1]
    spread = scale.reshape(groups, 1, outputs).expand(groups, inputs, outputs).reshape(groups * inputs, outputs)
    return spread.reshape([*spread.shape] + [1] * (weight.dim() - 2))


def _after_layer_norm(match: Match, given: dict[str, Any], affine: Affine, out: Tensor) -> dict[str, Tensor] | None:
    shape = list(given["normalized_shape"])
    taken: dict[str, Tensor] = {}
    weight, bias = match.weight(given["weight"]), match.weight(given["bias"])
    if (given["weight"] is not None and weight is None) or (given["bias"] is not None and bias is None):
        return None
    fitted = []
    for part in (affine.scale, affine.shift):
        if part is not None and (any(n != 1 for n in part.shape[: out.dim() - len(shape)])):
            return None
        fitted.append(None if part is None else part.reshape(part.shape[out.dim() - len(shape) :]).expand(shape))
    scale, shift = fitted
    if scale is not None or weight is None:
        own = torch.ones(shape, dtype=torch.float64) if weight is None else weight.double()
        taken["weight"] = own if scale is None else own * scale
    if shift is not None or bias is not None:
        start = torch.zeros(shape, dtype=torch.float64) if bias is None else bias.double()
        taken["bias"] = (start if scale is None else start * scale) + (0 if shift is None else shift)
    return taken


def absorb_before(match: Match, affine: Affine) -> Plan:
    """A plan that gives the root layer's weights the scale and shift applied to its input."""
    node = match.root
    given, name = arguments(node), key(node)
    weight = match.weight(given["weight"])
    found = tensor(given["input"])
    if weight is None or found is None or (given["bias"] is not None and match.weight(given["bias"]) is None):
        return None
    axis = found.dim() - 1 if name == "linear" else found.dim() - weight.dim() + 1
    size = known(found.shape[axis])
    vectors = affine.along(axis, size) if size is not None else None
    if vectors is None:
        return "the constant is not one number per input channel of the layer"
    if vectors[1] is not None and name != "linear" and not _unpadded(name, given):
        return "the layer pads with zeros, which the shift does not reach"
    taken = _before(match, name, given, weight, vectors)
    reason = _refusal(match, node, affine, taken)
    return reason or (lambda: _with_weights(match, node, taken, affine.source))


def _before(
    match: Match, name: str, given: dict[str, Any], weight: Tensor, vectors: tuple[Tensor | None, Tensor | None]
) -> dict[str, Tensor]:
    scale, shift = vectors
    old = weight.double()
    groups = int(given.get("groups", 1))
    shape = _input_shape(name, weight, groups)
    taken: dict[str, Tensor] = {}
    if scale is not None:
        taken["weight"] = (old.reshape(shape) * _input_vector(name, scale, groups, len(shape))).reshape(old.shape)
    if shift is not None:
        moved = old.reshape(shape) * _input_vector(name, shift, groups, len(shape))
        bias = match.weight(given["bias"])
        added = moved.flatten(2).sum(2).reshape(-1)
        taken["bias"] = added if bias is None else bias.double() + added
    return taken


def _input_shape(name: str, weight: Tensor, groups: int) -> list[int]:
    """(groups, outputs of a group, inputs of a group, taps...), or for a transposed layer (all inputs, ...)."""
    if name in TRANSPOSED:
        return list(weight.shape)
    return [groups, weight.shape[0] // groups, *weight.shape[1:]]


def _input_vector(name: str, vector: Tensor, groups: int, rank: int) -> Tensor:
    if name in TRANSPOSED:
        return vector.reshape([-1] + [1] * (rank - 1))
    return vector.reshape([groups, 1, -1] + [1] * (rank - 3))


def _unpadded(name: str, given: dict[str, Any]) -> bool:
    if name in TRANSPOSED:
        return False
    padding = given["padding"]
    if isinstance(padding, str):
        return padding == "valid"
    return all(width == 0 for width in ([padding] if isinstance(padding, int) else padding))
