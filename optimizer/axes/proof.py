"""Cutting with proof: remove indices, and show that the result is the original with those indices zeroed."""

from __future__ import annotations

from collections.abc import Sequence

from tersor.axes.analysis import Axes
from tersor.axes.remove import remove
from tersor.axes.select import Kept
from tersor.axes.zeroed import zeroed
from tersor.bindings import bindings, hiding
from tersor.check import failure, judge
from tersor.errors import RewriteError
from tersor.interface import Flat
from tersor.noise import rounding
from tersor.program import Program
from tersor.refresh import refresh
from tersor.report.model import Parity


def cut(program: Program, axes: Axes, kept: Kept, extra: Sequence[Flat] = ()) -> list[Parity]:
    """Leave only the kept indices, in place, and compare with the oracle at several sizes of each dynamic dimension,
    and where masks hide something.

    Args:
        program: the analysed program.
        axes: its analysis, which is stale afterwards.
        kept: the indices that stay, by axis.
        extra: further flat inputs to compare on.

    Returns:
        The comparisons, all passed.

    Raises:
        RewriteError: the shapes do not fit, or an output differs from the zeroed original's; the program is then
            no longer usable.
    """
    before = program.clone()
    remove(program, axes, kept)
    refresh(program)
    cases = [case for case in (*bindings(before, extra), hiding(before)) if case is not None]
    wanted = [zeroed(before, axes, kept, case.inputs) for case in cases]

    def noise(position: int) -> list[float]:
        inputs = cases[position].inputs
        return rounding(program, inputs, program.run(inputs))

    names = before.interface.output_names
    parities = judge("the cut against the zeroed original", wanted, program.run_flat, cases, names, noise)
    problem = failure(parities)
    if problem:
        raise RewriteError(f"the cut is not the zeroed original: {problem}", "please report it with the model's name")
    return parities
