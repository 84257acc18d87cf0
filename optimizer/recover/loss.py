"""How far a program's outputs are from the original's, without labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tersor.interface import Flat
from tersor.program import Program

_TINY = 1e-12


def output_loss(original: Program, program: Program, batches: Sequence[Flat]) -> float:
    """Squared difference of the floating outputs as a share of their energy, averaged over outputs.

    0 is equality, 1 is as bad as returning zeros; infinite where a result is not finite. Outputs of other types count
    by the share of elements that differ where there is no floating one.
    """
    wanted = [original.run(flat) for flat in batches]
    got = [program.run(flat) for flat in batches]
    return compared(wanted, got)


def compared(wanted: Sequence[Flat], got: Sequence[Flat]) -> float:
    """`output_loss` of results at hand.

    >>> compared([(torch.tensor([2.0]),)], [(torch.tensor([1.0]),)])
    0.25
    """
    places = [place for place, value in enumerate(wanted[0]) if value.is_floating_point()]
    if not places:
        return _differing(wanted, got)
    total = 0.0
    for place in places:
        pairs = [(w[place].double(), g[place].double()) for w, g in zip(wanted, got, strict=True)]
        finite = [(w.isfinite(), w, g) for w, g in pairs]
        energy = sum(float(w[good].square().sum()) for good, w, _ in finite)
        error = sum(float((w - g)[good].square().sum()) for good, w, g in finite)
        total += error / max(energy, _TINY)
    return total / len(places) if math.isfinite(total) else math.inf


def _differing(wanted: Sequence[Flat], got: Sequence[Flat]) -> float:
    pairs = [(w, g) for one, other in zip(wanted, got, strict=True) for w, g in zip(one, other, strict=True)]
    count = sum(w.numel() for w, _ in pairs)
    return sum(int((w != g).sum()) for w, g in pairs) / max(count, 1)


def normalised(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Differentiable: squared difference over the energy of what is wanted, averaged over (wanted, got); 0 for none."""
    terms = [
        (wanted.float() - got.float()).square().mean() / wanted.float().square().mean().clamp(min=_TINY)
        for wanted, got in pairs
    ]
    return torch.stack(terms).mean() if terms else torch.zeros(())


def is_logits(value: Tensor) -> bool:
    """Whether an output looks like unnormalised scores of classes: one vector an example, of either sign."""
    return value.is_floating_point() and value.dim() == 2 and value.shape[1] > 1 and bool((value < 0).any())
