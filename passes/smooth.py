"""`Smooth`: what is hard to quantize in activations moves into weights (SmoothQuant)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from tersor.calibrate import observe
from tersor.context import Context
from tersor.factor.options import whole
from tersor.passes._weights import share_weight_nodes, shared_with
from tersor.program import Program
from tersor.quant.grid import grid
from tersor.quant.smooth import Moments, Smoothing, smooth
from tersor.rewrite_arguments import set_constant
from tersor.rewrite_values import arguments, fake, key

NORMS = ("layer_norm", "rms_norm")


@dataclass(frozen=True)
class Smooth:
    """Divide channels of a normalisation's result by what the weights of the layers behind it are multiplied with.

    A few channels of a transformer's activations are often a hundred times larger than the others, and one scale for
    all then leaves nothing for these (Xiao et al., arXiv:2211.10438). The results stay the same. Share and factors come
    from calibration data: what lowers the predicted error of eight-bit layers.

    Attributes:
        alpha: how much goes to the weights, 0 to 1; None searches for each normalisation.
        weights, activations: the formats that the layers are to be quantized to.
        least: share of the predicted error that must go, else a normalisation stays as it is.
    """

    alpha: float | None = None
    weights: str = "int8"
    activations: str = "uint8"
    least: float = 0.05
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole("alpha", self.alpha)
        whole("least", self.least)
        grid(self.weights)
        grid(self.activations)

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        share_weight_nodes(program)
        found = []
        for node in (node for node in program.nodes if key(node) in NORMS):
            reason = _objection(program, node)
            if reason:
                context.skip(node, reason)
            else:
                found.append(node)
        if not found:
            return
        seen = {node.name: _Seen() for node in found}
        observe(program, {name: item.add for name, item in seen.items()}, context.calibration or (program.inputs,))
        for node in found:
            made = self._smoothing(program, node, seen[node.name].moments())
            gain = 1 - made.after / max(made.before, 1e-300)
            if gain < self.least:
                context.skip(node, f"{gain:.0%} of the predicted error would go")
            elif context.take(node, f"{gain:.0%} of the predicted error goes, at alpha {made.alpha:.2f}"):
                _apply(program, node, made.scale)
        program.prune_weights()
        program.changed()

    def _smoothing(self, program: Program, node: fx.Node, moments: Moments) -> Smoothing:
        weights = [program.weight(arguments(user)["weight"]) for user in node.users]
        return smooth(moments, torch.cat([w for w in weights if w is not None]), self.activations, self.weights,
                      alpha=self.alpha)  # fmt: skip


def _objection(program: Program, node: fx.Node) -> str:
    """Why a normalisation and the layers behind it cannot take factors; empty where they can."""
    given = arguments(node)
    if len(given["normalized_shape"]) != 1:
        return "it runs over several dimensions"
    if any(given.get(name) is not None and program.weight(given[name]) is None for name in ("weight", "bias")):
        return "its weight or bias is computed in the graph"
    for user in node.users:
        read = arguments(user) if key(user) == "linear" else {}
        if program.weight(read.get("weight")) is None or read["input"] is not node:
            return f"{user.name} reads it and is no layer that could take the factors"
        if shared_with(program, read["weight"], user) is not None:
            return f"the weight of {user.name} is read by others too"
    return ""


class _Seen:
    """Running extremes and squares of each channel."""

    def __init__(self) -> None:
        self.low: Tensor | None = None
        self.high = self.square = torch.zeros(0)
        self.count = 0

    def add(self, value: Tensor) -> None:
        rows = value.flatten(0, -2).double()
        low, high = rows.aminmax(dim=0)
        if self.low is None:
            self.low, self.high, self.square = low, high, torch.zeros_like(low)
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.square, self.count = self.square + rows.square().sum(0), self.count + len(rows)

    def moments(self) -> Moments:
        assert self.low is not None
        return Moments(self.low, self.high, self.square / self.count)


def _apply(program: Program, node: fx.Node, scale: Tensor) -> None:
    given = arguments(node)
    weight = program.weight(given["weight"])
    _set(program, node, "weight", (torch.ones_like(scale) if weight is None else weight.double()) / scale)
    bias = program.weight(given.get("bias"))
    if bias is not None:
        _set(program, node, "bias", bias.double() / scale)
    for user in list(node.users):
        old = program.weight(arguments(user)["weight"])
        assert old is not None
        _set(program, user, "weight", old.double() * scale)


def _set(program: Program, node: fx.Node, name: str, value: Tensor) -> None:
    set_constant(program, node, name, value.to(fake(node).dtype).contiguous(), f"{node.name}_{name}")
