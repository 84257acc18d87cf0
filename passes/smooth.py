"""`Smooth`: what is hard to quantize in activations moves into weights (SmoothQuant, RepQuant)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, fx

from tersor.calibrate import observe
from tersor.context import Context
from tersor.factor.options import whole
from tersor.passes._weights import share_weight_nodes, shared_with
from tersor.program import Program
from tersor.quant.absorb import absorb, absorber, divide, multiply
from tersor.quant.grid import grid
from tersor.quant.smooth import Moments, Seen, Smoothing, smooth
from tersor.rewrite_arguments import set_constant
from tersor.rewrite_values import arguments, fake, key
from tersor.target import Target

NORMS = ("layer_norm", "rms_norm")

LARGE = 256
"""Outputs of layers in front of which a multiplication of their inputs is worth it: it takes some percent of them."""


@dataclass(frozen=True)
class Smooth:
    """Divide channels of what linear layers read by what their weights are multiplied with.

    The normalisation before them takes in the factors, or the layer before, also through a rectifier or a product such
    as that of a gated feed-forward part; no node is added, unless ``insert`` is given. A few channels of a
    transformer's activations are often a hundred times larger than the others, and one scale for all then leaves
    nothing for these (Xiao et al., arXiv:2211.10438). Channels may also be shifted to lie around zero, which the biases
    of the layers take back, so that one zero point serves all (RepQuant, arXiv:2402.05628). The results stay the same.
    Share, factors and shifts come from calibration data: what lowers the predicted error of eight-bit layers.

    Attributes:
        alpha: how much goes to the weights, 0 to 1; None searches for each.
        weights, activations: the formats that the layers are to be quantized to.
        least: share of the predicted error that must go, else the channels stay as they are.
        shift: move channels too, behind layer norms, where that is predicted to gain; layers without a bias get one. It
            counts with the whole range of activations, and gains little where `quantize` clips ranges ("mse").
        insert: put a multiplication in front of large layers where nothing before them can take in the factors, as
            where a residual sum reads the norm too (cf. Wei et al., arXiv:2209.13325, who multiply in the sum).
    """

    alpha: float | None = None
    weights: str = "int8"
    activations: str = "uint8"
    least: float = 0.05
    shift: bool = False
    insert: bool = False
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole("alpha", self.alpha)
        whole("least", self.least)
        grid(self.weights)
        grid(self.activations)

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """One setting: it finds shares by itself."""
        return (cls(),)

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        share_weight_nodes(program)
        found, inserted = self._found(program, context)
        if not found:
            return
        seen = {node.name: Seen() for node in found}
        observe(program, {name: item.add for name, item in seen.items()}, context.calibration or (program.inputs,))
        for node in found:
            made = self._smoothing(program, node, seen[node.name].moments(), inserted.get(node))
            gain = 1 - made.after / max(made.before, 1e-300)
            if gain < self.least:
                context.skip(node, f"{gain:.0%} of the predicted error would go")
            elif context.take(node, f"{gain:.0%} of the predicted error goes, at alpha {made.alpha:.2f}{_moved(made)}"):
                _apply(program, node, made, inserted.get(node))
        program.prune_weights()
        program.changed()

    def _found(self, program: Program, context: Context) -> tuple[list[fx.Node], dict[fx.Node, list[fx.Node]]]:
        """Where channels can be divided, and the layers in front of which that takes a multiplication."""
        found = []
        inserted = _in_front_of_layers(program) if self.insert else {}
        for node in (node for node in program.nodes if key(node) in NORMS):
            reason = _objection(program, node)
            if not reason:
                found.append(node)
            elif node not in inserted:
                context.skip(node, reason)
        found += _behind_layers(program)
        inserted = {node: layers for node, layers in inserted.items() if node not in found}
        return [*found, *inserted], inserted

    def _smoothing(self, program: Program, node: fx.Node, moments: Moments, layers: list[fx.Node] | None) -> Smoothing:
        given = [arguments(user) for user in layers or node.users]
        weights = [program.weight(item["weight"]) for item in given]
        biases = [item["bias"] is None or program.weight(item["bias"]) is not None for item in given]
        shift = self.shift and key(node) == "layer_norm" and all(biases) and layers is None
        return smooth(moments, torch.cat([w for w in weights if w is not None]), self.activations, self.weights,
                      alpha=self.alpha, shift=shift)  # fmt: skip


def _behind_layers(program: Program) -> list[fx.Node]:
    """What linear layers read that no normalisation gives, where a layer before can take in factors of its channels."""
    sources = dict.fromkeys(arguments(node)["input"] for node in program.nodes if key(node) == "linear")
    return [
        node
        for node in sources
        if key(node) not in NORMS
        and not any(_cannot_multiply(program, node, user) for user in node.users)
        and isinstance(absorber(program, node, list(node.users)), fx.Node)
    ]


def _in_front_of_layers(program: Program) -> dict[fx.Node, list[fx.Node]]:
    """The large linear layers by what they read: a multiplication is cheap beside them."""
    made: dict[fx.Node, list[fx.Node]] = {}
    for node in program.nodes:
        source = arguments(node)["input"] if key(node) == "linear" else None
        if source is not None and not _cannot_multiply(program, source, node):
            made.setdefault(source, []).append(node)
    return {
        source: layers
        for source, layers in made.items()
        if source.op == "call_function" and sum(len(_weight(program, layer)) for layer in layers) >= LARGE
    }


def _weight(program: Program, layer: fx.Node) -> Tensor:
    found = program.weight(arguments(layer)["weight"])
    assert found is not None
    return found


def _moved(made: Smoothing) -> str:
    return "" if made.shift is None else f", with shifts of up to {float(made.shift.abs().max()):.2g}"


def _objection(program: Program, node: fx.Node) -> str:
    """Why a normalisation and the layers behind it cannot take factors; empty where they can."""
    given = arguments(node)
    if len(given["normalized_shape"]) != 1:
        return "it runs over several dimensions"
    if any(given.get(name) is not None and program.weight(given[name]) is None for name in ("weight", "bias")):
        return "its weight or bias is computed in the graph"
    if not node.users:
        return "nothing reads it"
    return next(filter(None, (_cannot_multiply(program, node, user) for user in node.users)), "")


def _cannot_multiply(program: Program, node: fx.Node, user: fx.Node) -> str:
    """Why a reader's weight cannot take factors of what it reads; empty where it can."""
    read = arguments(user) if key(user) == "linear" else {}
    if program.weight(read.get("weight")) is None or read["input"] is not node:
        return f"{user.name} reads it and is no layer that could take the factors"
    if shared_with(program, read["weight"], user) is not None:
        return f"the weight of {user.name} is read by others too"
    return ""


def _apply(program: Program, node: fx.Node, made: Smoothing, layers: list[fx.Node] | None) -> None:
    if layers is not None:
        divide(program, node, layers, made.scale)
        return
    if key(node) not in NORMS:
        before = absorber(program, node, list(node.users))
        assert isinstance(before, fx.Node)
        absorb(program, before, made.scale)
        for user in node.users:
            multiply(program, user, made.scale)
        return
    given, scale = arguments(node), made.scale
    weight, bias = program.weight(given["weight"]), program.weight(given.get("bias"))
    _set(program, node, "weight", (torch.ones_like(scale) if weight is None else weight.double()) / scale)
    if bias is not None or made.shift is not None:
        own = torch.zeros_like(scale) if bias is None else bias.double()
        _set(program, node, "bias", (own if made.shift is None else own - made.shift) / scale)
    for user in list(node.users):
        read = arguments(user)
        old, start = program.weight(read["weight"]), program.weight(read["bias"])
        assert old is not None
        if made.shift is not None:
            added = old.double() @ made.shift
            _set(program, user, "bias", added if start is None else start.double() + added)
        _set(program, user, "weight", old.double() * scale)


def _set(program: Program, node: fx.Node, name: str, value: Tensor) -> None:
    set_constant(program, node, name, value.to(fake(node).dtype).contiguous(), f"{node.name}_{name}")
