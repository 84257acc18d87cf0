"""SparseGPT for N:M patterns: inputs are gone through once, and those still ahead make up for what is lost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.quant.grid import Grid, affine, rounded
from tersor.sparse.pattern import Pattern, blocks, every_choice
from tersor.sparse.quadratic import factor, inverse, moments

_TRIED = 100
"""Blocks with more choices than this have their mask picked by single scores: 4:8 has 70."""


@dataclass(frozen=True, eq=False)
class Sparse:
    """A weight ``[out, in]``, zero outside its mask.

    Attributes:
        weight: in the dtype of the original; on the grid, where there was one.
        mask: bool, exactly n of m, or the mask that was given.
    """

    weight: Tensor
    mask: Tensor


@dataclass(frozen=True, eq=False)
class Levels:
    """The grid that weights are put on, as `tersor.quant.grid` takes it.

    Attributes:
        grid: the levels.
        scale: ``[out, groups]``, each for an equal part of the inputs.
        zero: ``[out, groups]``.
    """

    grid: Grid
    scale: Tensor
    zero: Tensor

    @classmethod
    def of(cls, weight: Tensor, grid: Grid, groups: int = 1) -> Levels:
        """Symmetric levels from the range of each row ``[out, in]``, or of each of its groups.

        Kept weights grow as they make up for others: prune first, and take the levels of what that gives.
        """
        if groups < 1 or weight.shape[1] % groups:
            raise UsageError(f"{weight.shape[1]} inputs in {groups} groups", "a number that divides the inputs")
        low, high = weight.unflatten(1, (groups, -1)).aminmax(dim=2)
        return cls(grid, *affine(low, high, grid, symmetric=True))

    def round(self, value: Tensor, inputs: int, place: int) -> Tensor:
        """The nearest numbers ``[out]`` on the grid for the weights of one input."""
        group = place * self.scale.shape[1] // inputs
        return rounded(value, self.scale[:, group], self.zero[:, group], self.grid)


@torch.no_grad()
def sparsegpt(
    weight: Tensor,
    gram: Tensor,
    pattern: Pattern,
    *,
    mask: Tensor | None = None,
    levels: Levels | None = None,
    damping: float = 0.01,
    exhaustive: bool = True,
    width: int = 128,
) -> Sparse:
    """Prune to an N:M pattern, and change the weights of inputs that come later to make up for it.

    SparseGPT, Frantar and Alistarh, ICML 2023, arXiv:2301.00774: the inverse of the second moments, by its Cholesky
    factor, says what a removal costs when all later weights are re-optimised, and how they change. With ``levels``
    kept weights are rounded on the way (as in GPTQ, arXiv:2210.17323), which shares the same updates. Inputs that are
    never active are removed first in their block; where there is room for them they stay as they are.

    Args:
        weight: ``[out, in]``.
        gram: second moments of the inputs or a multiple, ``[in, in]``.
        pattern: to follow.
        mask: keep these weights rather than choose, bool ``[out, in]``.
        levels: grid for the kept weights.
        damping: as in `moments`; above 0 where the moments may be singular.
        exhaustive: choose each block's mask by the exact cost of each choice; the paper, and this for blocks with
            more than 100 choices, by the costs of single weights.
        width: inputs whose later updates are gathered before they are applied; it changes the speed only.

    Raises:
        UsageError: shapes do not belong together, m does not divide the inputs, the moments are singular.
    """
    _check(weight, pattern, mask, levels)
    # Row i of the inverse's upper factor is, up to scale, what the later weights do for a change of the one at i.
    root = factor(inverse(moments(weight, gram, damping))).mT
    state, inputs = weight.double().clone(), weight.shape[1]
    chosen = torch.zeros_like(weight, dtype=torch.bool) if mask is None else mask.clone()
    choices = every_choice(pattern).to(weight.device) if exhaustive and pattern.choices <= _TRIED else None
    width = max(width // pattern.m, 1) * pattern.m
    for start in range(0, inputs, width):
        stop = min(start + width, inputs)
        lost = state.new_zeros(len(state), stop - start)
        for place in range(start, stop):
            if mask is None and place % pattern.m == 0:
                here = slice(place, place + pattern.m)
                chosen[:, here] = _choose(state[:, here], root[here, here], pattern, choices)
            value = state[:, place] if levels is None else levels.round(state[:, place], inputs, place)
            value = torch.where(chosen[:, place], value, 0.0)
            gap = (state[:, place] - value) / root[place, place]
            state[:, place:stop] -= gap[:, None] * root[place, place:stop]
            state[:, place], lost[:, place - start] = value, gap
        state[:, stop:] -= lost @ root[start:stop, stop:]
    return Sparse(state.to(weight.dtype), chosen)


def _check(weight: Tensor, pattern: Pattern, mask: Tensor | None, levels: Levels | None) -> None:
    inputs = blocks(weight, pattern).shape[-2] * pattern.m
    if levels is not None and (len(levels.scale) != len(weight) or inputs % levels.scale.shape[1]):
        raise UsageError(f"scales {tuple(levels.scale.shape)} for a weight {tuple(weight.shape)}", "[out, groups]")
    if mask is not None and (mask.shape != weight.shape or mask.dtype != torch.bool):
        raise UsageError(f"a mask {tuple(mask.shape)} of {mask.dtype}", f"bool of shape {tuple(weight.shape)}")


def _choose(weight: Tensor, root: Tensor, pattern: Pattern, choices: Tensor | None) -> Tensor:
    """The mask of one block ``[out, m]`` from its part of the factor."""
    if choices is None:
        costs = (weight / root.diagonal()).square()
        kept = costs.sort(dim=1, descending=True, stable=True).indices[:, : pattern.n]
        return torch.zeros_like(weight, dtype=torch.bool).scatter_(1, kept, True)
    lost = (weight @ _losses(root, choices).flatten(1)).unflatten(1, (len(choices), -1))
    return choices[lost.square().sum(2).argmin(1)]


def _losses(root: Tensor, choices: Tensor) -> Tensor:
    """The linear map from a block's weights to the losses at its inputs, for each choice: ``[m, choices, m]``.

    Losses are in units whose squares add up to the cost. It is what the loop over inputs would do to unit vectors.
    """
    size = len(root)
    state = torch.eye(size).to(root)[:, None, :].repeat(1, len(choices), 1)
    found = torch.zeros_like(state)
    for place in range(size):
        gap = state[..., place].masked_fill(choices[:, place], 0) / root[place, place]
        found[..., place] = gap
        state[..., place:] -= gap[..., None] * root[place, place:]
    return found
