"""N:M masks from weights and statistics of inputs; True marks the weights that stay."""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.sparse.pattern import Pattern, blocks, every_choice
from tersor.sparse.quadratic import moments


def top(scores: Tensor, pattern: Pattern) -> Tensor:
    """The n highest scores of each block of ``[..., in]``; of equal ones the first; NaN counts as highest.

    >>> top(torch.tensor([[1.0, 4.0, 2.0, 3.0]]), Pattern(2, 4)).tolist()
    [[False, True, False, True]]
    """
    parts = blocks(scores, pattern)
    kept = parts.sort(dim=-1, descending=True, stable=True).indices[..., : pattern.n]
    return torch.zeros_like(parts, dtype=torch.bool).scatter_(-1, kept, True).flatten(-2)


def magnitude(weight: Tensor, pattern: Pattern) -> Tensor:
    """The largest weights (Mishra et al., arXiv:2104.08378): ``[out, in]`` to bool ``[out, in]``."""
    return top(weight.abs(), pattern)


def wanda(weight: Tensor, norms: Tensor, pattern: Pattern) -> Tensor:
    """The largest products of a weight and the norm of its input (Wanda, Sun et al., arXiv:2306.11695).

    Args:
        weight: ``[out, in]``.
        norms: L2 norm of each input over the calibration data, or its root mean square, ``[in]``.
        pattern: to follow.

    Raises:
        UsageError: the shapes do not belong together, or m does not divide the inputs.
    """
    if norms.shape != weight.shape[-1:]:
        raise UsageError(f"{tuple(norms.shape)} norms for a weight {tuple(weight.shape)}", "one norm for each input")
    return top(weight.abs().double() * norms.to(weight.device, torch.float64), pattern)


@torch.no_grad()
def best(weight: Tensor, gram: Tensor, pattern: Pattern) -> Tensor:
    """The mask of each block that costs least, the other blocks left as they are: every choice is tried.

    Only the blocks on the diagonal of the second moments count, so inputs are seen as related within a block and as
    unrelated between blocks; where all are unrelated, it is `wanda`.

    Args:
        weight: ``[out, in]``.
        gram: second moments of the inputs or a multiple, ``[in, in]``.
        pattern: to follow.

    Returns:
        bool ``[out, in]``.

    Raises:
        UsageError: as `moments`, or m does not divide the inputs, or the pattern has too many choices.
    """
    parts = blocks(weight.double(), pattern)
    second = moments(weight, gram, damping=0.0)
    count = parts.shape[1]
    diagonal = second.unflatten(0, (count, -1)).unflatten(-1, (count, -1)).diagonal(dim1=0, dim2=2).movedim(-1, 0)
    choices = every_choice(pattern).to(weight.device)
    costs = parts.new_full(parts.shape[:2], torch.inf)
    winner = torch.zeros_like(costs, dtype=torch.long)
    for place, kept in enumerate(choices):
        gone = (~kept).nonzero().flatten()
        core, lost = diagonal[:, gone[:, None], gone[None, :]], parts[..., gone]
        cost = torch.einsum("obi,bij,obj->ob", lost, core, lost)
        winner = winner.masked_fill(cost < costs, place)
        costs = torch.minimum(cost, costs)
    return choices[winner].flatten(1)
