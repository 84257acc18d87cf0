"""Which part of an original value is left after one cut, and after two."""

from __future__ import annotations

import torch
from torch import nn

from tersor.axes import analyze, cut, groups
from tersor.recover import Correspondence
from tests.recover.models import batches, program_of


def test_cuts_of_cuts_compose() -> None:
    (x,) = batches((6,), count=1)[0]
    original = program_of(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), x)
    link, program = Correspondence(), original.clone()
    for width, kept in ((8, [1, 3, 4, 6, 7]), (5, [0, 2, 4])):
        axes = analyze(program)
        (hidden,) = (group for group in groups(program, axes) if group.free and group.size == width)
        chosen = {hidden.axis: torch.tensor(kept)}
        cut(program, axes, chosen)
        link = link.then(axes, chosen)
    name = next(node.name for node in original.nodes if "relu" in node.name)
    found = link.part(name, torch.arange(16.0).reshape(2, 8))
    assert found is not None and found[0].tolist() == [1, 4, 7]


def test_values_that_the_analysis_does_not_know_have_no_part() -> None:
    (x,) = batches((6,), count=1)[0]
    program = program_of(nn.Linear(6, 8), x)
    link = Correspondence.cut(analyze(program), {})
    assert link.part("nowhere", x) is None and link.part("x", x[0]) is None


def test_without_cuts_everything_stands_for_itself() -> None:
    value = torch.ones(3)
    assert Correspondence().part("anything", value) is value
    assert Correspondence(names={"b": "a"}).original("b") == "a"
