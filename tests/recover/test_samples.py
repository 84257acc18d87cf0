"""Calibration inputs: checks, splits, and the limit on memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tersor.errors import InputError
from tersor.recover.samples import chunks, split, within
from tests.passes.harness import captured
from tests.recover.models import batches


def program(dynamic: bool = True):
    return captured(nn.Linear(4, 2), torch.randn(16, 4), dynamic)


def test_batches_are_joined_and_the_last_quarter_judges() -> None:
    calibration = batches((4,), count=5)
    samples = split(program(), calibration)
    everything = torch.cat([flat[0] for flat in calibration])
    assert torch.equal(torch.cat([flat[0] for flat in samples.fit]), everything[:60])
    assert torch.equal(torch.cat([flat[0] for flat in samples.held]), everything[60:])
    assert samples.separate and samples.dimension is not None


def test_one_large_batch_is_split_too() -> None:
    samples = split(program(), [(torch.randn(40, 4),)])
    assert [len(flat[0]) for flat in samples.fit + samples.held] == [30, 10]


def test_fixed_batches_stay_whole() -> None:
    samples = split(program(dynamic=False), batches((4,), count=5))
    assert (len(samples.fit), len(samples.held), samples.dimension) == (4, 1, None)


def test_a_single_fixed_batch_judges_itself() -> None:
    samples = split(program(dynamic=False), batches((4,), count=1))
    assert not samples.separate and samples.fit == samples.held == samples.batches


def test_chunks_respect_the_bounds_of_the_dimension() -> None:
    dimension = split(program(), batches((4,))).dimension
    assert dimension is not None and dimension.minimum == 2
    assert [len(flat[0]) for flat in chunks((torch.zeros(65, 4),), dimension)] == [33, 32]
    assert [len(flat[0]) for flat in chunks((torch.zeros(3, 4),), dimension, size=2)] == [3]


def test_nothing_is_refused_clearly() -> None:
    with pytest.raises(InputError, match="no calibration inputs"):
        split(program(), [])


@pytest.mark.parametrize(
    ("flat", "words"),
    [
        ((torch.zeros(2, 5),), "wanted 4"),
        ((torch.zeros(2, 4, dtype=torch.float64),), "float64"),
        ((torch.zeros(2, 4), torch.zeros(2, 4)), "2 tensors"),
        (torch.zeros(2, 4), "one tensor"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(flat, words: str) -> None:
    with pytest.raises(InputError, match=words):
        split(program(), [flat])


def test_memory_limits_the_batches() -> None:
    model = program(dynamic=False)
    samples = split(model, batches((4,), count=40))
    assert within(samples, model, 1 << 30) is samples
    few = within(samples, model, 16 * 6 * 4 * 2 * 20)
    assert len(few.fit) == 15 and len(few.held) == 5
    assert len(within(samples, model, 1).batches) == 2
