"""Distillation: it learns, keeps the best, repeats itself by seed, and leaves both programs alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tersor.errors import UsageError
from tersor.program import Program
from tersor.progress import Silent
from tersor.recover import Correspondence, Course, distill
from tersor.recover.samples import split
from tersor.recover.student import Student, joints, trainable
from tersor.recover.teaching import drawn, mixed
from tests.passes.harness import Compute, captured
from tests.recover.models import batches, cut_groups, largest, program_of, unchanged


class Net(nn.Module):
    """A residual block between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        self.block = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.leave(x + self.block(x))


def damaged_net() -> tuple[Program, Program, Correspondence, list[tuple[Tensor, ...]]]:
    calibration = batches((6,))
    original = program_of(Net().eval(), calibration[0][0])
    return original, *cut_groups(original, largest(0.25)), calibration


@pytest.mark.parametrize("options", [{}, {"features": 0.0}, {"soft_labels": 1.0}, {"learning_rate": 0.03}])
def test_it_learns_and_changes_neither_program(options: dict[str, float]) -> None:
    original, damaged, link, calibration = damaged_net()
    intact = unchanged(original), unchanged(damaged)
    found = distill(original, damaged, calibration, Course(steps=150, **options), link)  # type: ignore[arg-type]
    assert found.after < 0.5 * found.before and found.steps == 150
    assert all(check() for check in intact)
    assert {n: v.shape for n, v in found.program.weights.items()} == {n: v.shape for n, v in damaged.weights.items()}
    assert not any(value.requires_grad for value in found.program.weights.values())
    fresh = torch.randn(64, 6)
    (wanted,), (worse,), (better,) = (program.run([fresh]) for program in (original, damaged, found.program))
    assert (wanted - better).norm() < 0.8 * (wanted - worse).norm()


def test_the_seed_fixes_the_result() -> None:
    original, damaged, link, calibration = damaged_net()
    made = [distill(original, damaged, calibration, Course(steps=25, seed=seed), link) for seed in (3, 3, 4)]
    states = [torch.cat([value.flatten() for value in found.program.weights.values()]) for found in made]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_the_best_state_is_kept_even_where_that_is_the_first() -> None:
    original, damaged, link, calibration = damaged_net()
    found = distill(original, damaged, calibration, Course(steps=30, every=5, learning_rate=50.0), link)
    assert found.after <= found.before
    perfect = distill(original, original, calibration, Course(steps=40, every=2, patience=3, learning_rate=0.1))
    assert perfect.after == 0.0 and perfect.steps == 6
    assert all(torch.equal(perfect.program.weights[name], original.weights[name]) for name in original.weights)


def test_an_interruption_passes_through() -> None:
    class Impatient(Silent):
        def advance(self, amount: int = 1, detail: str = "") -> None:
            raise KeyboardInterrupt

    original, damaged, link, calibration = damaged_net()
    intact = unchanged(original), unchanged(damaged)
    with pytest.raises(KeyboardInterrupt):
        distill(original, damaged, calibration, Course(steps=5), link, Impatient())
    assert all(check() for check in intact)


def test_progress_ends_at_a_hundred() -> None:
    class Counting(Silent):
        total = 0

        def advance(self, amount: int = 1, detail: str = "") -> None:
            self.total += amount

    original, damaged, link, calibration = damaged_net()
    progress = Counting()
    distill(original, damaged, calibration, Course(steps=50), link, progress)
    assert 90 <= progress.total <= 100


def test_a_program_without_gradients_is_refused() -> None:
    model = Compute(lambda x, w: (x @ w).argmax(-1), w=torch.randn(6, 4))
    program = captured(model, torch.randn(4, 6))
    with pytest.raises(UsageError, match="no trained weight reaches"):
        distill(program, program, batches((6,)), Course(steps=3))
    bare = captured(Compute(lambda x: x * 2), torch.randn(4, 6))
    with pytest.raises(UsageError, match="no floating weight"):
        distill(bare, bare, batches((6,)), Course(steps=3))


@pytest.mark.parametrize("options", [{}, {"steps": 0}, {"seconds": -1.0}, {"steps": 5, "learning_rate": float("nan")}])
def test_a_course_without_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Course(**options)


def test_tied_weights_stay_tied_and_statistics_stay() -> None:
    tensors = {"w": torch.randn(6, 6), "v": torch.randn(6, 6), "m": torch.zeros(6), "s": torch.ones(6)}
    model = Compute(lambda x, w, v, m, s: nn.functional.batch_norm(x @ w @ v, m, s), **tensors)
    program = captured(model, torch.randn(4, 6))
    program.weights["v"] = program.weights["w"]
    assert set(trainable(program)) == {"w", "v"}
    student = Student.of(program)
    assert len(student.leaves) == 1
    taught = student.taught([torch.ones(6, 6)])
    assert taught.weights["w"] is taught.weights["v"] and bool((taught.weights["w"] == 1).all())
    assert taught.weights["s"] is program.weights["s"]


def test_joints_are_the_sums_of_residual_streams() -> None:
    original, damaged, link, _ = damaged_net()
    found = joints(original, damaged, link)
    assert len(found) == 1 and "add" in found[0][0]


def test_batches_cover_every_example_once_an_epoch() -> None:
    original, _, _, calibration = damaged_net()
    samples = split(original, calibration)
    stream = drawn(samples, 12, 0.0, torch.Generator().manual_seed(0))
    seen = torch.cat([next(stream)[0] for _ in range(8)])
    wanted = torch.cat([flat[0] for flat in samples.fit])
    assert sorted(seen[:, 0].tolist()) == sorted(wanted[:, 0].tolist())


def test_mixtures_lie_between_two_examples_nearer_to_the_first() -> None:
    images = torch.arange(8.0).reshape(8, 1, 1).expand(8, 2, 2).contiguous()
    (found,) = mixed((images,), 1.0, torch.Generator().manual_seed(0))
    values = found[:, 0, 0]
    assert torch.equal(found, values.reshape(8, 1, 1).expand(8, 2, 2))
    assert not torch.equal(values, images[:, 0, 0]) and bool(((values - images[:, 0, 0]).abs() <= 3.5).all())
    tokens = torch.arange(8).reshape(8, 1, 1)
    assert mixed((images, tokens), 1.0, torch.Generator())[1] is tokens
