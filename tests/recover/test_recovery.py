"""`recover` as a whole: bad input, guards, and trained models."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from tersor.capture.torch import capture_module
from tersor.errors import InputError, UsageError
from tersor.models_zoo import catalog
from tersor.program import Program
from tersor.progress import Silent
from tersor.recover import Correspondence, Course, recover
from tersor.recover.loss import output_loss
from tersor.refresh import refresh
from tests.recover.models import batches, cut_groups, duplicated, exact, first_half, largest, program_of, unchanged


def example() -> tuple[Program, Program, Correspondence, list[Any]]:
    calibration = batches((6,))
    original = program_of(duplicated(nn.Linear(6, 16), nn.Linear(16, 4)), calibration[0][0])
    return original, *cut_groups(original, first_half), calibration


@pytest.mark.parametrize("method", ["least-squares", "bias", ("bias", "least-squares"), ["least-squares", "distill"]])
def test_every_method_lowers_the_loss(method: Any) -> None:
    original, damaged, link, calibration = example()
    intact = unchanged(original), unchanged(damaged)
    found = recover(original, damaged, link, calibration, method, course=Course(steps=20))
    assert found.loss_after < found.loss_before == pytest.approx(output_loss(original, damaged, calibration[6:]))
    assert found.layers and found.program is not damaged
    assert all(check() for check in intact)
    refresh(found.program)


def test_what_does_not_help_is_left_out_with_a_note() -> None:
    original, _, _, calibration = example()
    found = recover(
        original, original, Correspondence(), calibration, ("least-squares", "distill"), course=Course(steps=3)
    )
    assert found.program is original and found.loss_after == 0 and not found.layers
    assert [note.split()[0] for note in found.notes] == ["least-squares", "distill"]


def test_outputs_that_are_not_finite_are_no_gain() -> None:
    original, damaged, link, calibration = example()
    damaged.weights["2.bias"] = damaged.weights["2.bias"] + math.inf
    damaged.changed()
    found = recover(original, damaged, link, calibration)
    assert found.loss_before == math.inf and found.loss_after == math.inf and found.program is damaged


def test_one_fixed_batch_is_enough_but_noted() -> None:
    from tests.passes.harness import captured

    x = torch.randn(64, 6)
    original = captured(duplicated(nn.Linear(6, 16), nn.Linear(16, 4)), x, dynamic=False)
    damaged, link = cut_groups(original, first_half)
    found = recover(original, damaged, link, [(x,)])
    assert found.loss_after < 1e-9 and "too few" in found.notes[0]


def test_few_examples_and_little_memory_are_noted() -> None:
    original, damaged, link, calibration = example()
    assert "generalises poorly" in recover(original, damaged, link, calibration[:1]).notes[0]
    found = recover(original, damaged, link, calibration, memory=1)
    assert "for which there is memory" in found.notes[0] and found.loss_after < found.loss_before


def test_a_program_without_gradients_keeps_what_the_layers_gained() -> None:
    calibration = batches((6,))
    model = nn.Sequential(duplicated(nn.Linear(6, 16), nn.Linear(16, 4)), Rounded()).eval()
    original = program_of(model, calibration[0][0])
    damaged, link = cut_groups(original, first_half)
    found = recover(original, damaged, link, calibration, ("least-squares", "distill"), course=Course(steps=3))
    assert found.loss_after < found.loss_before and "no trained weight" in found.notes[0]
    with pytest.raises(UsageError, match="no trained weight"):
        recover(original, damaged, link, calibration, "distill", course=Course(steps=3))


class Rounded(nn.Module):
    """Has an integer result, which has no gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 20).long()


def test_progress_counts_the_layers() -> None:
    class Listening(Silent):
        stages: list[tuple[str, int | None]] = []  # noqa: RUF012
        steps = 0

        def stage(self, name: str, total: int | None = None) -> None:
            self.stages.append((name, total))

        def advance(self, amount: int = 1, detail: str = "") -> None:
            self.steps += amount

    original, damaged, link, calibration = example()
    heard = Listening()
    recover(original, damaged, link, calibration, "bias", progress=heard)
    assert heard.stages == [("repair", 2)] and heard.steps == 2


@pytest.mark.parametrize(
    ("method", "words"),
    [("least-square", "did you mean 'least-squares'"), ("magic", "choose from"), ((), "no recovery method")],
)
def test_unknown_methods_are_refused(method: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        recover(*example(), method=method)


def test_programs_that_do_not_belong_together_are_refused() -> None:
    original, _, link, calibration = example()
    other = refresh(capture_module(nn.Bilinear(6, 6, 2).eval(), (torch.randn(4, 6), torch.randn(4, 6))))
    with pytest.raises(UsageError, match="wanted"):
        recover(original, other, link, calibration)
    with pytest.raises(InputError, match="wanted 6"):
        recover(original, original, link, [(torch.randn(4, 7),)])


def trained(name: str, keep: float) -> tuple[Any, Program, Program, Correspondence]:
    entry = catalog.load(name)
    original = exact(refresh(capture_module(entry.model, entry.inputs, entry.dynamic)))
    return entry, original, *cut_groups(original, largest(keep))


TRAINED = [
    ("zoo:digits-cnn", 0.5, 0.95, 0.15),
    ("zoo:digits-vit", 0.35, 0.8, 0.1),
    pytest.param("zoo:digits-mobile", 0.5, 0.85, 0.35, marks=pytest.mark.slow),
    pytest.param("zoo:mnist-cnn", 0.5, 0.93, 0.2, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "keep", "regained", "loss"), TRAINED)
def test_least_squares_regains_most_of_the_lost_accuracy(name: str, keep: float, regained: float, loss: float) -> None:
    """Half of every layer's channels or hidden units cut by magnitude; no training, 256 unlabelled examples."""
    entry, original, damaged, link = trained(name, keep)
    found = recover(original, damaged, link, entry.calibration)
    best, worst, now = (entry.evaluator(program) for program in (original, damaged, found.program))
    assert worst < best - 0.02, "the cut must hurt for this test to say something"
    assert (now - worst) / (best - worst) > regained
    assert found.loss_after < loss * found.loss_before


@pytest.mark.slow
def test_least_squares_brings_the_encoders_outputs_back() -> None:
    """Its accuracy survives the cut as it is, its outputs do not."""
    entry, original, damaged, link = trained("zoo:text-encoder", 0.35)
    found = recover(original, damaged, link, entry.calibration)
    assert found.loss_after < 0.05 * found.loss_before
    assert entry.evaluator(found.program) > entry.evaluator(original) - 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("name", "keep", "share"), [("zoo:digits-cnn", 0.5, 0.7), ("zoo:digits-vit", 0.35, 0.8)])
def test_distillation_improves_further(name: str, keep: float, share: float) -> None:
    entry, original, damaged, link = trained(name, keep)
    course = Course(steps=200)
    first = recover(original, damaged, link, entry.calibration)
    both = recover(original, damaged, link, entry.calibration, ("least-squares", "distill"), course=course)
    assert both.loss_after < share * first.loss_after
    assert entry.evaluator(both.program) > entry.evaluator(original) - 0.03
