"""What may not be removed is refused before anything is touched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tersor.axes import analyze, groups, remove
from tersor.capture import load
from tersor.errors import RewriteError


def test_pinned_axes_and_repeated_indices_are_refused() -> None:
    program = load(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), (torch.randn(2, 3),))
    axes = analyze(program)
    found = {group.size: group for group in groups(program, axes)}
    before = dict(program.weights)
    with pytest.raises(RewriteError, match="graph input"):
        remove(program, axes, {found[3].axis: torch.tensor([0])})
    with pytest.raises(RewriteError, match="graph output"):
        remove(program, axes, {found[2].axis: torch.tensor([0])})
    with pytest.raises(RewriteError, match="different"):
        remove(program, axes, {found[4].axis: torch.tensor([1, 1])})
    with pytest.raises(RewriteError, match="different"):
        remove(program, axes, {found[4].axis: torch.tensor([], dtype=torch.int64)})
    assert program.weights == before
