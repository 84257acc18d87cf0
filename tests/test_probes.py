"""A rewrite must also be right where values are small and where masks hide something, which examples seldom show."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from tersor.capture.torch import capture_module
from tersor.pipeline import Reference, run
from tersor.probes import small, varied
from tersor.program import Program
from tests.faulty import Fault


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.int32, torch.float32])
def test_every_row_keeps_its_start_and_hides_another_end(dtype: torch.dtype) -> None:
    made = varied([torch.ones(3, 1, 2, 12).to(dtype)])
    assert made is not None and made[0].dtype == dtype and made[0].shape == (3, 1, 2, 12)
    assert made[0].sum(-1).flatten().tolist() == [6, 6, 8, 8, 9, 9]
    assert bool((made[0][..., 0] == 1).all())


def test_what_hides_nothing_may_be_false_throughout() -> None:
    made = varied([torch.zeros(1, 4, dtype=torch.bool)])
    assert made is not None and made[0].tolist() == [[False, False, True, True]]


def test_numbers_that_are_zero_throughout_become_a_wave() -> None:
    made = varied([torch.zeros(2, 3)])
    assert made is not None and torch.equal(made[0], torch.arange(6).sin().reshape(2, 3))


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([[1, 1, 0]]),
        torch.tensor([[True, False]]),
        torch.zeros(2, 4, dtype=torch.int64),
        torch.ones(3, 1),
        torch.tensor(1),
        torch.ones(0, 4),
    ],
    ids=["a mask with something hidden", "such a Boolean", "types of tokens", "one column", "a number", "empty"],
)
def test_other_inputs_stay(value: torch.Tensor) -> None:
    assert varied([value, torch.randn(2, 3)]) is None


def test_integers_do_not_get_small() -> None:
    assert small([torch.tensor([3])]) is None


class Masked(nn.Module):
    """Attention with padding hidden, called like a model of transformers."""

    def __init__(self, lowest: float = -1e4) -> None:
        super().__init__()
        self.lowest = lowest

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = x @ x.transpose(1, 2) + (1.0 - mask[:, None].to(x.dtype)) * self.lowest
        return torch.softmax(scores, -1) @ x


def _without(program: Program, node: fx.Node) -> None:
    node.replace_all_uses_with(node.all_input_nodes[0])


def _of_heads(program: Program, node: fx.Node) -> None:
    """The mask along the rows that look instead of those that are looked at."""
    node.args = (node.args[0], 2)


FAULTS = [Fault("no mask", "aten.add.Tensor", _without), Fault("other axis", "aten.unsqueeze.default", _of_heads)]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_wrong_mask_is_noticed_though_the_example_hides_nothing(fault: Fault) -> None:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    axes = {0: batch, 1: length}
    example = (torch.randn(3, 5, 8), torch.ones(3, 5, dtype=torch.int64))
    program = capture_module(Masked().eval(), example, {"x": axes, "mask": axes})
    step = run(program, [fault], Reference.of(program)).steps[0]
    assert step.sites and step.status == "dropped" and "differs by" in step.reason


def test_what_a_mask_makes_infinite_is_not_asked_for() -> None:
    class Divided(nn.Module):
        def forward(self, x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
            return x / count

    program = capture_module(Divided().eval(), (torch.randn(2, 4), torch.ones(2, 4)), None)
    assert len(Reference.of(program).cases) == 2
    program = capture_module(Masked(-1e4).eval(), (torch.randn(2, 4, 3), torch.ones(2, 4)), None)
    assert len(Reference.of(program).cases) == 3
