"""The order of passes, and pairs that are refused before any work."""

from __future__ import annotations

from itertools import combinations

import pytest

import tersor
from tersor.errors import UsageError
from tersor.search.order import EXCLUSIONS, STAGES, check, legal, objection, order, place
from tersor.spec import parse, pass_class, pass_names


def test_every_name_is_a_pass_and_stands_once() -> None:
    names = order()
    assert len(set(names)) == len(names)
    assert set(names) <= set(pass_names())
    assert {name for rule in EXCLUSIONS for name in (*rule.first, *rule.then)} <= set(names)
    assert all(stage.reason for stage in STAGES) and all(rule.reason for rule in EXCLUSIONS)


def test_every_pass_with_settings_has_a_place_of_its_own() -> None:
    offering = {name for name in pass_names() if hasattr(pass_class(name), "choices")}
    assert offering <= set(order())
    assert {"prune", "quantize", "low-rank"} <= offering


def test_the_order_itself_breaks_no_rule() -> None:
    broken = [(first, then) for first, then in combinations(order(), 2) if objection(first, then)]
    same_format = {("quantize", "quantize-dynamic"), ("quantize", "quantize-weights")}
    assert set(broken) == same_format | {("quantize-dynamic", "quantize-weights")}


def test_an_unknown_pass_stands_between_tokens_and_width() -> None:
    assert place("prune-layers") < place("something-new") < place("prune")


@pytest.mark.parametrize(
    ("passes", "remedy"),
    [("quantize,prune", "put prune before quantize"), ("sparsify,prune", "put prune before sparsify"),
     ("quantize,quantize-weights", "leave one of them out")],
)  # fmt: skip
def test_illegal_pairs_are_refused_before_the_model_is_looked_at(passes: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=remedy):
        tersor.optimize("no-such-file.onnx", passes=passes, progress=False)


def test_legal_pipelines_pass() -> None:
    check(parse("canonicalize,prune-layers,prune,low-rank,quantize"))
    assert legal(("prune", "quantize")) and not legal(("quantize", "canonicalize", "prune"))
