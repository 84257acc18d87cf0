"""Block-diagonal and Monarch forms of a matrix (Dao et al., arXiv:2204.00595)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Monarch:
    """Each block of inputs is mapped to a few numbers for each block of outputs, and these are summed there.

    With b input blocks, a output blocks and ranks r,
    ``weight[(a, o), (b, i)] = sum over r of second[a, b, r, o] first[b, i, a, r]``.

    Attributes:
        first: (in blocks, in / in blocks, out blocks, rank).
        second: (out blocks, in blocks, rank, out / out blocks).
    """

    first: Tensor
    second: Tensor

    @property
    def weight(self) -> Tensor:
        """The (out, in) matrix."""
        return torch.einsum("abro,biar->aobi", self.second, self.first).flatten(2).flatten(0, 1)

    def middle(self, rows: Tensor) -> Tensor:
        """(n, in) rows to (n, out blocks, in blocks * rank), what each output block sums over."""
        blocks = rows.unflatten(1, self.first.shape[:2])
        return torch.einsum("nbi,biar->nabr", blocks, self.first.to(rows.dtype)).flatten(2)


def blocks(weight: Tensor, outer: int, inner: int) -> Tensor:
    """(out, in) as (outer, inner, out / outer, in / inner)."""
    return weight.unflatten(1, (inner, -1)).unflatten(0, (outer, -1)).movedim(2, 1)


def block_roots(second: Tensor | None, inputs: int, count: int) -> Tensor:
    """(blocks, size, size) lower triangular roots of the input moments within each block; identities without data."""
    width = inputs // count
    unit = torch.eye(width, dtype=torch.float64).expand(count, width, width)
    if second is None:
        return unit
    own = torch.stack([second[start : start + width, start : start + width] for start in range(0, inputs, width)])
    level = second.trace() / inputs
    lower, failed = torch.linalg.cholesky_ex(own + 1e-4 * level * unit)
    return unit if bool(failed.any()) or not bool(level > 0) else lower


def spectrum(weight: Tensor, roots: Tensor, scale: Tensor, outer: int) -> Tensor:
    """(ranks,) error made by leaving out the r-th rank of every block, strongest first."""
    return torch.linalg.svdvals(_seen(weight, roots, scale, outer)).square().sum((0, 1))


def project(weight: Tensor, roots: Tensor, scale: Tensor, outer: int, rank: int) -> Monarch:
    """The nearest Monarch matrix: a singular value decomposition of each block.

    Args:
        weight: (out, in); both are multiples of the numbers of blocks.
        roots: (in blocks, size, size), see `block_roots`; identities give the projection of Dao et al.
        scale: (out,) weight of each output's error.
        outer: output blocks.
        rank: of each block; 1 is the original Monarch form, as many as a block has rows or columns is exact.

    >>> weight = torch.randn(6, 4, dtype=torch.float64)
    >>> made = project(weight, block_roots(None, 4, 2), torch.ones(6, dtype=torch.float64), 3, 2)
    >>> torch.allclose(made.weight, weight)
    True
    """
    left, values, right = torch.linalg.svd(_seen(weight, roots, scale, outer), full_matrices=False)
    back = torch.linalg.solve_triangular(roots, right[:, :, :rank], upper=False, left=False)
    # Unit vectors inside, so that no factor overflows in half precision.
    length = back.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    mix = left[..., :rank] * (values[:, :, None, :rank] * length.mT) / scale.reshape(outer, 1, -1, 1)
    return Monarch((back / length).permute(1, 3, 0, 2).contiguous(), mix.permute(0, 1, 3, 2).contiguous())


def _seen(weight: Tensor, roots: Tensor, scale: Tensor, outer: int) -> Tensor:
    return blocks(weight.double() * scale[:, None], outer, len(roots)) @ roots


def partition(energy: Tensor, count: int, sweeps: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Equal parts of rows and columns between which as much as possible of a matrix lies on the diagonal blocks.

    Alternates between rows and columns, from several random starts.

    Args:
        energy: (out, in) non-negative.
        count: of parts.

    Returns:
        The part of each row and of each column.
    """
    generator = torch.Generator().manual_seed(seed)
    best: tuple[float, Tensor, Tensor] | None = None
    for _ in range(4):
        columns = torch.randperm(energy.shape[1], generator=generator) % count
        rows = columns
        for _ in range(sweeps):
            rows = balanced(energy @ _members(columns, count))
            columns = balanced(energy.T @ _members(rows, count))
        inside = float(energy[rows[:, None] == columns[None]].sum())
        if best is None or inside > best[0]:
            best = inside, rows, columns
    assert best is not None
    return best[1], best[2]


def balanced(scores: Tensor) -> Tensor:
    """Assign each of n items to one of k equal parts, the highest scores first; n is a multiple of k.

    >>> balanced(torch.tensor([[9.0, 0.0], [8.0, 7.0], [1.0, 0.0], [2.0, 0.0]])).tolist()
    [0, 1, 1, 0]
    """
    items, parts = scores.shape
    # What counts is how much an item loses by its second choice, not how large its scores are.
    ranked = (scores - scores.mean(1, keepdim=True)).flatten().argsort(descending=True, stable=True).tolist()
    room = [items // parts] * parts
    assigned = [-1] * items
    for place in ranked:
        item, part = divmod(place, parts)
        if assigned[item] < 0 and room[part]:
            assigned[item] = part
            room[part] -= 1
    return torch.tensor(assigned)


def _members(parts: Tensor, count: int) -> Tensor:
    return torch.nn.functional.one_hot(parts, count).double()
