"""Order of input channels: which of them should share a block, so that an N:M pattern keeps more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.sparse.pattern import Pattern, blocks

WORK = 1e10
"""Additions that a search may take, some ten seconds of one core of a CPU."""

_SHARE = 8
"""A look at all pairs of columns takes at most this part of the work: where it would take more, rows are drawn."""

_WIDEST = 4096
"""Columns that are searched together at most: tables of all pairs grow with their square."""

_KICKED = 4
"""A kick is one swap for each so many blocks."""


@dataclass(frozen=True, eq=False)
class Ordered:
    """An order of columns.

    Attributes:
        order: the column that comes to each place, int64 ``[in]``: ``weight[:, order]``.
        before, after: magnitude that the pattern keeps of all weights together without and with it.
        total: magnitude of all weights.
        swaps: of columns that were made.
    """

    order: Tensor
    before: float
    after: float
    total: float
    swaps: int


def kept(weight: Tensor, pattern: Pattern) -> float:
    """The sum of magnitudes that a magnitude mask keeps.

    >>> kept(torch.tensor([[1.0, -4.0, 2.0, 3.0]]), Pattern(2, 4))
    7.0
    """
    return float(blocks(weight.abs().double(), pattern).topk(pattern.n).values.sum())


def search(
    weights: Sequence[Tensor],
    pattern: Pattern,
    *,
    within: Tensor | None = None,
    work: float = WORK,
    kicks: int = 20,
    seed: int = 0,
) -> Ordered:
    """An order of the columns that all weights share, with which a magnitude mask keeps more.

    Swaps of two columns of different blocks, the best ones first and blocks at most once in a round, until none gains;
    then from where a few random swaps lead. The measure and the greedy search with escapes from local maxima are those
    of Pool and Yu, "Channel Permutations for N:M Sparsity", NeurIPS 2021; here the gains of all pairs of columns come
    from one table of distances.

    Args:
        weights: ``[out, in]`` each; multiply columns by the norms of their inputs to search for `wanda` masks.
        pattern: to follow.
        within: a label of each column, int ``[in]``; columns only move to places of their own label, as inside heads.
            Columns that must move alike, as halves of rotary pairs or the same channel at each point of a kernel, are
            searched as one by giving each of their slices as a weight of its own.
        work: additions, at most; of many rows a part is drawn for the search.
        kicks: escapes from local maxima, as the work allows.
        seed: of draws; the same gives the same order.

    Raises:
        UsageError: no weights, or their shapes or the labels do not belong together, or m does not divide the columns.
    """
    table = _joined(weights)
    inputs = table.shape[1]
    if within is not None and within.shape != (inputs,):
        raise UsageError(f"{tuple(within.shape)} labels for {inputs} columns", "one label for each column")
    before, generator = kept(table, pattern), torch.Generator().manual_seed(seed)
    labels = torch.zeros(inputs, dtype=torch.long) if within is None else within.cpu()
    order, swaps = torch.arange(inputs), 0
    parts = _parts(labels, pattern)
    for part in parts:
        share = work * len(part) ** 2 / sum(len(other) ** 2 for other in parts)
        rows = _drawn(table, share / (_SHARE * len(part) ** 2), generator)
        course = _Course(table[rows][:, part.to(table.device)], pattern, labels[part], share)
        course.climb()
        for _ in range(kicks):
            course.kick(generator)
        order[part], swaps = part[course.order.cpu()], swaps + course.swaps
    after = kept(table[:, order.to(table.device)], pattern)
    if after <= before:
        order, swaps, after = torch.arange(inputs), 0, before
    return Ordered(order, before, after, float(table.sum()), swaps)


def _parts(labels: Tensor, pattern: Pattern) -> list[Tensor]:
    """Sets of whole blocks of columns that need not be searched together."""
    grouped = blocks(labels, pattern)
    pure = bool((grouped == grouped[:, :1]).all())
    sets = [(labels == label).nonzero().flatten() for label in labels.unique()] if pure else [torch.arange(len(labels))]
    return [part for columns in sets for part in columns.split(_WIDEST // pattern.m * pattern.m)]


def _joined(weights: Sequence[Tensor]) -> Tensor:
    """Magnitudes of all weights, one below the other, float64."""
    widths = {weight.shape[-1] for weight in weights if weight.dim() == 2}
    if len(widths) != 1 or any(weight.dim() != 2 for weight in weights):
        shapes = ", ".join(str(tuple(weight.shape)) for weight in weights) or "none"
        raise UsageError(f"weights of shapes {shapes} share no columns", "matrices [out, in] with the same inputs")
    table = torch.cat([weight.detach().abs().double() for weight in weights])
    if not bool(table.isfinite().all()):
        raise UsageError("a weight is not finite", "check the model")
    return table


def _drawn(table: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Indices of so many rows at most, in their order."""
    drawn = torch.randperm(len(table), generator=generator)[: max(int(most), 1)]
    return drawn.sort().values.to(table.device)


class _Course:
    """A search on its way.

    Attributes:
        order: the column at each place.
        work: additions that are left.
        swaps: made so far.
    """

    def __init__(self, table: Tensor, pattern: Pattern, labels: Tensor, work: float) -> None:
        self.columns, self.pattern, self.work, self.swaps = table.mT.contiguous(), pattern, work, 0
        inputs = len(self.columns)
        self.order = torch.arange(inputs, device=table.device)
        block = self.order // pattern.m
        self.allowed = ((block[:, None] != block).cpu() & (labels[:, None] == labels)).to(table.device)
        self.base, self.gain = table.new_zeros(inputs), table.new_zeros(inputs, inputs)
        self._look(self.order)

    def climb(self) -> None:
        """Swap until no swap gains, or the work is done."""
        while self.work > 0:
            pairs = self._best()
            if not len(pairs):
                return
            self._swap(pairs)

    def kick(self, generator: torch.Generator) -> None:
        """Climb on from random swaps of some blocks, and return if that leads no higher."""
        if self.work <= 0:
            return
        size, count = self.pattern.m, len(self.order) // self.pattern.m
        drawn = torch.randperm(count, generator=generator)[: count // 2 * 2] * size
        pairs = (drawn + torch.randint(size, drawn.shape, generator=generator)).view(-1, 2).to(self.order.device)
        pairs = pairs[self.allowed[pairs[:, 0], pairs[:, 1]]][: max(count // _KICKED, 1)]
        if not len(pairs):
            return
        former = self.order, self.base, self.gain, self.swaps, self.value
        self.order, self.base, self.gain = self.order.clone(), self.base.clone(), self.gain.clone()
        self._swap(pairs)
        self.climb()
        if self.value <= former[-1]:
            self.order, self.base, self.gain, self.swaps, _ = former

    @property
    def value(self) -> float:
        """The magnitude that is kept."""
        return float(self._present().view(-1, self.pattern.m)[:, 0].sum())

    def _present(self) -> Tensor:
        """What the block of each place keeps."""
        return self.base + self.gain[self.order, torch.arange(len(self.order), device=self.order.device)]

    def _look(self, places: Tensor) -> None:
        """Bring the tables up to date at these places, which are whole blocks.

        With t the n-th largest of the other magnitudes of a block in a row, a column there adds max(x - t, 0) to what
        the others keep. Summed over rows that is half of |x - t| + x - t, the first of which is a distance.
        """
        size, others = self.pattern.m, self.pattern.m - 1
        index = torch.arange(size, device=places.device)
        other = (index[:, None] + 1 + index[:others]) % size
        slots = self.columns[self.order[places]].unflatten(0, (-1, size))[:, other]
        largest = slots.flatten(0, 1).topk(self.pattern.n, dim=1).values
        threshold = largest[:, -1]
        self.base[places] = largest.sum((1, 2))
        distance = torch.cdist(self.columns, threshold, p=1)
        self.gain[:, places] = (distance + self.columns.sum(1)[:, None] - threshold.sum(1)) / 2
        self.work -= self.columns.numel() * len(places)

    def _best(self) -> Tensor:
        """Pairs of places whose columns to swap, ``[pairs, 2]``: the best first, each block in one of them."""
        held, size = self.gain[self.order], self.pattern.m
        self.work -= held.numel()
        own = held.diagonal()
        gains = (held + held.mT - own[:, None] - own).masked_fill(~self.allowed, 0)
        gains = gains.unflatten(1, (-1, size)).unflatten(0, (-1, size)).movedim(1, 2).flatten(2)
        highest, places = gains.max(2)
        # Less is rounding, and would be swapped to and fro.
        one, two = _matched(highest, 1e-12 * float(self._present().sum())).unbind(1)
        inner = places[one, two]
        return torch.stack([one * size + inner // size, two * size + inner % size], 1)

    def _swap(self, pairs: Tensor) -> None:
        self.order[pairs] = self.order[pairs.flip(1)]
        self.swaps += len(pairs)
        touched = (pairs // self.pattern.m).flatten().unique()
        self._look((touched[:, None] * self.pattern.m + torch.arange(self.pattern.m, device=pairs.device)).flatten())


def _matched(worth: Tensor, least: float) -> Tensor:
    """Pairs of rows of a symmetric table, the most worth first, each row at most once, ``[pairs, 2]``."""
    found = []
    worth = worth.clone()
    own = torch.arange(len(worth), device=worth.device)
    while bool((worth > least).any()):
        highest, partner = worth.max(1)
        chosen = (own < partner) & (partner[partner] == own) & (highest > least)
        if not bool(chosen.any()):
            # Equal worths can point in a circle.
            chosen = own == highest.argmax()
        pairs = torch.stack([own[chosen], partner[chosen]], 1)
        found.append(pairs)
        worth[pairs.flatten()] = 0
        worth[:, pairs.flatten()] = 0
    return torch.cat(found) if found else own.new_empty(0, 2)
