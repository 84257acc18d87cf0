"""Patterns: what is one, what follows one."""

from __future__ import annotations

import itertools

import pytest
import torch

from tersor.errors import UsageError
from tersor.sparse.pattern import Pattern, blocks, conforms, every_choice, is_pattern, parse, support


@pytest.mark.parametrize("text", ["2:4", "1:4", "4:8", " 2 : 4 "])
def test_patterns_read_and_print(text: str) -> None:
    assert str(parse(text)) == text.replace(" ", "")
    assert parse(parse(text)) == parse(text)


@pytest.mark.parametrize("text", ["4:4", "0:4", "5:4", "2", "2:4:8", "two:four", "-1:4", ""])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no N:M pattern"):
        parse(text)


def test_inputs_that_m_does_not_divide_are_refused() -> None:
    with pytest.raises(UsageError, match="6 inputs cannot be 2:4 sparse"):
        blocks(torch.zeros(2, 6), Pattern(2, 4))
    assert not is_pattern(torch.zeros(2, 6), Pattern(2, 4))
    assert not conforms(torch.zeros(2, 6, dtype=torch.bool), Pattern(2, 4))


def test_every_choice_is_there_once() -> None:
    found = every_choice(Pattern(2, 4))
    wanted = {mask for mask in itertools.product([False, True], repeat=4) if sum(mask) == 2}
    assert {tuple(mask) for mask in found.tolist()} == wanted
    assert len(found) == len(wanted) == Pattern(2, 4).choices
    with pytest.raises(UsageError, match="601080390 choices"):
        every_choice(Pattern(16, 32))


def test_fewer_weights_follow_a_pattern_but_are_no_full_mask() -> None:
    weight = torch.tensor([[0.0, 0.0, 5.0, 0.0], [1.0, 2.0, 0.0, 0.0]])
    assert is_pattern(weight, Pattern(2, 4))
    assert not conforms(weight != 0, Pattern(2, 4))
    assert conforms(weight[1:] != 0, Pattern(2, 4))
    assert not conforms(weight, Pattern(2, 4))
    assert not is_pattern(torch.tensor([[1.0, 2.0, 0.0, torch.nan]]), Pattern(2, 4))


@pytest.mark.parametrize(
    ("weight", "kept"),
    [([1.0, 0.0, 0.0, 2.0], True), ([0.0, 1.0, 1.0, 1.0], True), ([0.0] * 4, False), ([1.0] * 4, False), ([], False),
     ([0.0] + [1.0] * 7, False)],
)  # fmt: skip
def test_support_is_that_of_pruned_weights(weight: list[float], kept: bool) -> None:
    value = torch.tensor(weight)
    found = support(value)
    assert (found is not None) == kept
    assert found is None or torch.equal(found, value != 0)
