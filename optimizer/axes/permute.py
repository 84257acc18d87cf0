"""Permuting with proof: indices of axes in another order everywhere at once, and the outputs what they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tersor.axes.analysis import Axes
from tersor.axes.remove import remove
from tersor.axes.terms import Axis
from tersor.bindings import bindings
from tersor.check import failure, judge
from tersor.errors import RewriteError, UsageError
from tersor.interface import Flat
from tersor.noise import rounding
from tersor.program import Program
from tersor.refresh import refresh
from tersor.report.model import Parity


def permuted(program: Program, axes: Axes, order: Mapping[Axis, Tensor], extra: Sequence[Flat] = ()) -> list[Parity]:
    """Put the indices of axes in another order, in place, and compare the outputs at several sizes.

    Every weight that mentions an axis is reordered, and nothing else changes: the graph has the same nodes, and sums
    over an axis add the same products in another order.

    Args:
        program: the analysed program.
        axes: its analysis, with `tersor.axes.groups` run; it stays valid.
        order: for each axis the index that comes to each place, int64 [size].
        extra: further flat inputs to compare on.

    Returns:
        The comparisons, all passed.

    Raises:
        UsageError: an order is no permutation of an axis.
        RewriteError: an axis is pinned or ordered, or an output moved; after that the program is no longer usable.
    """
    for axis, places in order.items():
        if not torch.equal(places.sort().values.cpu(), torch.arange(int(axis.size))):
            raise UsageError(f"{len(places)} indices are no order of axis {axis}", "give each index once")
    before = program.clone()
    remove(program, axes, order)
    refresh(program)
    cases = bindings(before, extra)
    wanted = [case.outputs_of(before) for case in cases]

    def noise(position: int) -> list[float]:
        return rounding(before, cases[position].inputs, wanted[position])

    names = before.interface.output_names
    parities = judge("the permuted program against the original", wanted, program.run_flat, cases, names, noise)
    problem = failure(parities)
    if problem:
        raise RewriteError(f"another order changes the outputs: {problem}", "please report it with the model's name")
    return parities
