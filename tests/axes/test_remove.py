"""What may not be removed is refused before anything is touched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tersor.axes import analyze, cut, groups, remove
from tersor.capture import load
from tersor.errors import RewriteError
from tersor.program import Program
from tersor.report.model import Parity


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


class Masked(nn.Module):
    """Two layers with a mask between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x) * mask[..., None])


def _cut() -> list[Parity]:
    program = load(Masked().eval(), (torch.randn(2, 6, 3), torch.ones(2, 6)))
    axes = analyze(program)
    hidden = next(group for group in groups(program, axes) if group.size == 8)
    return cut(program, axes, {hidden.axis: torch.arange(5)})


def test_the_proof_looks_where_a_mask_hides_something(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets(program: Program, *rest: Any) -> None:
        remove(program, *rest)
        product = next(node for node in program.nodes if node.target is torch.ops.aten.mul.Tensor)
        product.replace_all_uses_with(product.all_input_nodes[0])

    assert [item.inputs for item in _cut()] == ["", "with masks that hide something"]
    monkeypatch.setattr("tersor.axes.proof.remove", forgets)
    with pytest.raises(RewriteError, match="with masks that hide something"):
        _cut()
