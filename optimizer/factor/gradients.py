"""How much each direction of a layer's result matters to the program's outputs, from their gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tersor.interface import Flat
from tersor.program import Program

BATCHES = 4
"""So many calibration inputs are differentiated: gradients vary little, and cost twice the memory of a run."""

PROBES = 4
"""Random signs per calibration input that stand for all outputs (Hutchinson, 1989)."""

FULL = 1536
"""Wider layers get a weight per output instead of one per pair: square roots of matrices grow with the cube."""

FLOOR = 0.1
"""Share of the average importance that every direction has at least: gradients say what matters nearby only."""


@dataclass(frozen=True)
class Metric:
    """The importance of an error ``e`` in a layer's result as the squared length of ``root @ e``.

    Attributes:
        root: (out, out) symmetric, or its diagonal (out,).
        back: its inverse.
    """

    root: Tensor
    back: Tensor

    def into(self, value: Tensor) -> Tensor:
        """(out, n) as the importance sees it."""
        return self.root[:, None] * value if self.root.dim() == 1 else self.root @ value

    def out_of(self, value: Tensor) -> Tensor:
        """The inverse of `into`."""
        return self.back[:, None] * value if self.back.dim() == 1 else self.back @ value


def flat_metric(width: int, scale: float = 1.0) -> Metric:
    """Every direction counts alike."""
    return Metric(
        torch.full((width,), scale, dtype=torch.float64), torch.full((width,), 1 / scale, dtype=torch.float64)
    )


def metric(importance: Tensor) -> Metric:
    """From the second moments of gradients, (out, out) or their diagonal (out,); must not be all zero."""
    if importance.dim() == 1:
        root = ((1 - FLOOR) * importance + FLOOR * importance.mean()).sqrt()
        return Metric(root, 1 / root)
    unit = torch.eye(len(importance), dtype=torch.float64)
    mixed = (1 - FLOOR) * importance + FLOOR * importance.trace() / len(importance) * unit
    values, vectors = torch.linalg.eigh((mixed + mixed.T) / 2)
    root = values.clamp(min=1e-9 * float(values.max())).sqrt()
    return Metric((vectors * root) @ vectors.T, (vectors / root) @ vectors.T)


def importances(
    program: Program, batches: Sequence[Flat], rows: Mapping[str, Callable[[Tensor], Tensor]], seed: int = 0
) -> dict[str, Tensor]:
    """Second moments of the outputs' gradients with respect to results of nodes, summed over rows.

    For a small error ``e`` of covariance ``C`` in one row, ``trace(importance @ C)`` summed over nodes is the expected
    square of the change of the outputs, each in units of its own spread over the batch.

    Args:
        program: with at least one output of a floating dtype.
        batches: calibration inputs, of which some are used.
        rows: for each node how its result becomes (n, width) rows.
        seed: of the random signs.

    Returns:
        By node (width, width), or (width,) for wide ones, float64. Empty where the program cannot be differentiated or
        some node has no gradient, so that the nodes could not be compared.
    """
    sums: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(seed)
    used = list(batches)[:BATCHES]
    try:
        for inputs in used:
            for name, gradient in _gradients(program, inputs, set(rows), generator):
                moments = _moments(rows[name](gradient).double().cpu())
                sums[name] = sums[name] + moments if name in sums else moments
    except (RuntimeError, NotImplementedError):
        return {}
    complete = set(sums) == set(rows) and all(bool(s.isfinite().all() and s.any()) for s in sums.values())
    return {name: value / (len(used) * PROBES) for name, value in sums.items()} if complete else {}


def _moments(rows: Tensor) -> Tensor:
    return rows.T @ rows if rows.shape[1] <= FULL else rows.square().sum(0)


def _gradients(program: Program, inputs: Flat, names: set[str], generator: torch.Generator) -> list[tuple[str, Tensor]]:
    recorder = _Recorder(program, names)
    with torch.enable_grad():
        outputs = [item for item in recorder.run(*inputs) if item.is_floating_point() and item.requires_grad]
    found = []
    for probe in range(PROBES if outputs else 0):
        total = sum((_signs(item, generator) * item).sum() / _spread(item) for item in outputs)
        kept = list(recorder.kept.values())
        made = torch.autograd.grad(total, kept, retain_graph=probe + 1 < PROBES, allow_unused=True)
        found += [(name, item) for name, item in zip(recorder.kept, made, strict=True) if item is not None]
    return found


def _signs(value: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, value.shape, generator=generator) * 2 - 1).to(value.device, value.dtype)


def _spread(value: Tensor) -> Tensor:
    value = value.detach()
    centred = value - value.mean(0, keepdim=True) if value.dim() and value.shape[0] > 1 else value
    return centred.square().sum().sqrt().clamp(min=1e-30)


class _Recorder(fx.Interpreter):
    """Runs with a graph for autograd from the first of the named nodes on, and keeps their results."""

    def __init__(self, program: Program, names: set[str]) -> None:
        super().__init__(program.module(), garbage_collect_values=True)
        self.names = names
        self.kept: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.names:
            self.kept[n.name] = result = result if result.requires_grad else result.detach().requires_grad_()
        return result
