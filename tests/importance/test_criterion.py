"""Criteria by name, user functions, and the check of their scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tersor.axes import Axes, Group
from tersor.context import Context
from tersor.errors import TersorError, UsageError
from tersor.importance import CRITERIA, DATA_FREE, find
from tersor.importance.magnitude import Magnitude
from tersor.program import Program
from tests.importance.models import Attention, Case, Convolutions, Peak, captured, context, drawn, seeded, standard


def attention() -> Case:
    return standard(Attention, 7, 5)


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("model", [Attention, Convolutions])
def test_every_criterion_scores_every_group_and_repeats_itself(name: str, model: type) -> None:
    shape = (7, 5) if model is Attention else (3, 9, 9)
    case = standard(model, *shape)
    given = [(drawn(6, *shape, seed=seed),) for seed in (2, 3)]
    first, second = (find(name)(case.program, case.axes, case.free, context(*given, seed=7)) for _ in range(2))
    assert len(first) == len(case.free) > 3
    for group in case.free:
        score = first[group.axis]
        assert score.shape == (group.size,) and score.dtype == torch.float64
        assert torch.equal(score, second[group.axis])
        assert (score >= 0).all() and score.unique().numel() > 1, (group.name, group.kind)


@pytest.mark.parametrize("name", sorted(set(CRITERIA) - DATA_FREE - {"surgeon", "surgeon-ordered"}))
def test_without_calibration_the_example_inputs_serve(name: str) -> None:
    case = attention()
    assert find(name)(case.program, case.axes, case.free, Context())


@pytest.mark.parametrize("name", sorted(DATA_FREE))
def test_data_free_criteria_run_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = attention()
    monkeypatch.setattr(Program, "module", lambda self: pytest.fail("the program was run"))
    assert find(name)(case.program, case.axes, case.free, Context())


@pytest.mark.parametrize("name", ["activation", "fluctuation", "surgeon", "surgeon-ordered", "trajectory"])
def test_what_is_never_summed_over_has_its_magnitude(name: str) -> None:
    case = standard(Peak, 6)
    (group,) = case.free
    scores = find(name)(case.program, case.axes, [group], context((drawn(4, 6),)))
    wanted = Magnitude(normalize=False)(case.program, case.axes, [group], Context())
    torch.testing.assert_close(scores[group.axis], wanted[group.axis])


def test_a_users_function_is_a_criterion() -> None:
    case = attention()

    def longest(program: Program, axes: Axes, groups: Sequence[Group], context: Context) -> dict[Any, Tensor]:
        return {group.axis: torch.arange(group.size) for group in groups}

    found = find(longest)
    assert found.name == "longest" and find(found) is found
    scores = found(case.program, case.axes, case.free, Context())
    assert scores[case.free[0].axis].tolist() == list(range(case.free[0].size))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda g: torch.full((g.size,), torch.nan), r"'bad' of group 'embed' .* not finite for 12 indices \(NaN\)"),
        (lambda g: torch.tensor([torch.inf] + [1.0] * (g.size - 1)), r"not finite for 1 indices \(infinite\)"),
        (lambda g: torch.ones(g.size + 1), r"'bad' of group 'embed' .* wanted one number per index"),
    ],
)
def test_a_bad_score_names_criterion_and_group(returned: Any, message: str) -> None:
    case = attention()

    def bad(program: Program, axes: Axes, groups: Sequence[Group], context: Context) -> dict[Any, Tensor]:
        return {group.axis: returned(group) for group in groups}

    with pytest.raises(TersorError, match=message):
        find(bad)(case.program, case.axes, case.free, Context())


def test_a_missing_group_is_named() -> None:
    case = attention()
    with pytest.raises(TersorError, match=r"of group 'embed' .* is missing"):
        find(lambda *_: {})(case.program, case.axes, case.free, Context())
    with pytest.raises(TersorError, match="returned list"):
        find(lambda *_: [])(case.program, case.axes, case.free, Context())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["magnitude", "activation", "taylor", "trajectory"])
def test_nan_weights_are_an_error_and_not_a_ranking(name: str) -> None:
    model = seeded(Attention)
    with torch.no_grad():
        model.get_parameter("query.weight")[0, 0] = torch.nan
    case = captured(model, drawn(2, 7, 5))
    with pytest.raises(TersorError, match=f"importance '{name}' of group"):
        find(name)(case.program, case.axes, case.free, Context())


def test_names_that_are_not_known() -> None:
    with pytest.raises(UsageError, match="did you mean 'taylor'"):
        find("tayler")
    with pytest.raises(UsageError, match="known: magnitude"):
        find("zzzz")
    with pytest.raises(UsageError, match="cannot be called"):
        find(3)  # type: ignore[arg-type]
