"""Which linear layers keep their weights in fewer bits, what they read, and how their weights are rounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from tersor.calibrate import Statistics, Tap, statistics
from tersor.factor.least_squares import residual
from tersor.interface import Flat
from tersor.program import Program
from tersor.quant.awq import clip
from tersor.quant.gptq import gptq
from tersor.quant.grid import grid
from tersor.quant.levels import min_max, nearest
from tersor.quant.plan import is_taken_back
from tersor.quant.stored import Format, Stored, is_kept_small, of_blocks, of_floats, of_levels
from tersor.rewrite_arguments import readers
from tersor.rewrite_values import arguments, key

METHODS = ("nearest", "gptq", "awq")
SAMPLES = 4096
WIDEST = 8192
"""Inputs above which products of all pairs of them would take gigabytes."""


@dataclass(frozen=True, eq=False)
class Reads:
    """What a layer reads on calibration data.

    Attributes:
        gram: mean of x x^T, float64 [in, in].
        mean: of x, float64 [in].
    """

    gram: Tensor
    mean: Tensor

    @classmethod
    def of(cls, seen: Statistics) -> Reads:
        """From sums over samples."""
        assert seen.gram is not None and seen.gram_mean is not None
        return cls(seen.gram / max(seen.samples, 1), seen.gram_mean)

    def divided(self, factors: Tensor) -> Reads:
        """The same of x / factors."""
        return Reads(self.gram / (factors[:, None] * factors), self.mean / factors)

    @property
    def centred(self) -> Tensor:
        """Mean of the products of x less its mean: all that counts where a bias makes up for the mean."""
        return self.gram - torch.outer(self.mean, self.mean)


def group_of(kind: Format, group: int | None, inputs: int) -> int | None:
    """Inputs of a layer that share a scale: as asked for, or the format's own, or half of that where it fits better.

    >>> from tersor.quant.stored import weight_format
    >>> [group_of(weight_format("int4"), None, inputs) for inputs in (64, 48)]
    [32, 16]
    """
    if group is not None or kind.group is None or kind.kind != "integer":
        return group or kind.group
    return kind.group // 2 if inputs % kind.group == kind.group // 2 else kind.group


def candidates(program: Program) -> list[fx.Node]:
    """All linear layers, in order."""
    return [node for node in program.nodes if key(node) == "linear"]


def objection(program: Program, node: fx.Node, kind: Format, group: int | None, least: int) -> str:
    """Why a layer's weight stays as it is; empty where it need not."""
    given = arguments(node)
    weight, source = program.weight(given["weight"]), given["input"]
    if is_kept_small(given["weight"]) or is_taken_back(source):
        return "it is quantized already"
    if weight is None or not isinstance(source, fx.Node):
        return "its weight is computed in the graph"
    if weight.dtype != torch.float32 or weight.dim() != 2:
        return f"its weight is {weight.dtype} of shape {list(weight.shape)}"
    name = str(given["weight"].target)
    if len(given["weight"].users) > 1 or readers(program, name) > 1:
        return f"weight {name} is read by several nodes, which would each take it back"
    if weight.numel() < least:
        return f"its {weight.numel()} weights are fewer than {least}"
    group = group_of(kind, group, weight.shape[1])
    if group is not None and weight.shape[1] % group:
        return f"{weight.shape[1]} inputs are not a multiple of the {group} that share a scale in {kind.name}"
    return "" if bool(weight.isfinite().all()) else "its weight is not finite"


def reads(program: Program, nodes: Iterable[fx.Node], inputs: Sequence[Flat], seed: int = 0) -> dict[str, Reads]:
    """What each layer reads, by the name of the node that it reads; what is too wide is left out."""
    taps: dict[str, Tap] = {}
    for node in nodes:
        weight, source = program.weight(arguments(node)["weight"]), arguments(node)["input"]
        if weight is not None and weight.shape[1] <= WIDEST:
            taps.setdefault(source.name, Tap(node.name, source.name, -1))
    seen = statistics(program, taps.values(), inputs, gram=True, samples=SAMPLES, seed=seed) if taps else {}
    return {name: Reads.of(seen[tap]) for name, tap in taps.items() if bool(seen[tap].mean.isfinite().all())}


def store(
    weight: Tensor, kind: Format, group: int | None, method: str, seen: Reads | None = None, *, bias: bool = False
) -> Stored:
    """A weight ``[out, in]`` in a format.

    Args:
        weight: finite.
        kind: the format.
        group: inputs that share a scale; None is one scale for each output.
        method: "nearest"; "gptq"; or "awq", of which only the clipping of ranges happens here.
        seen: what the layer reads; None rounds to nearest.
        bias: whether a bias makes up for the mean of the error.

    >>> from tersor.quant.stored import weight_format
    >>> store(torch.eye(16), weight_format("int4"), 16, "nearest").values.trace()
    tensor(16.)
    """
    if kind.kind != "integer":
        return of_floats(weight, kind.name) if kind.kind == "float" else of_blocks(weight, kind.name)
    on, real = grid(kind.name), weight.double()
    if seen is None or method == "nearest":
        return of_levels(nearest(real, *min_max(real, on, group=group, symmetric=kind.symmetric), on), kind.name)
    gram = seen.centred if bias else seen.gram
    if method == "gptq":
        return of_levels(gptq(real, gram, on, group=group, symmetric=kind.symmetric), kind.name)
    ranges = clip(real, gram, on, group=group, symmetric=kind.symmetric)
    return of_levels(nearest(real, ranges.scale, ranges.zero, on), kind.name)


def lost(weight: Tensor, made: Stored, seen: Reads, *, bias: bool = False) -> float:
    """Share of the output's energy that rounding a weight ``[out, in]`` costs."""
    real, gram = weight.double(), seen.centred if bias else seen.gram
    energy = float(((real @ seen.gram) * real).sum())
    return float(residual(real, made.values.double(), gram).sum()) / max(energy, 1e-300)


def shift(weight: Tensor, made: Stored, seen: Reads) -> Tensor:
    """What rounding adds to each output on average, float64 [out]."""
    return (made.values.double() - weight.double()) @ seen.mean
