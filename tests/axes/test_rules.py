"""Every flow rule against brute-force slicing: cutting before the operator is cutting after it."""

from __future__ import annotations

import pytest
import torch

from tersor.axes.flow import RULES
from tests.axes.one_node import Row, analysed, compare, drawn
from tests.axes.rows import ABSENT, ROWS

NAMES = [f"{case.name}-{number}" for number, case in enumerate(ROWS)]


@pytest.mark.parametrize("case", ROWS, ids=NAMES)
def test_cutting_before_an_operator_is_cutting_after_it(case: Row) -> None:
    generator = torch.Generator().manual_seed(0)
    made = analysed(case)
    assert not made.refused
    assert len(made.free) == case.free, [(axis, axis.pin) for axis in made.free]
    for chance in (1.0, 0.7, 0.4) if made.free else ():
        compare(made, drawn(made.free, chance, generator), generator)


def test_every_rule_is_proven() -> None:
    from tersor.rewrite_values import _target_key

    assert not set(RULES) - {_target_key(case.target) for case in ROWS} - set(ABSENT)
