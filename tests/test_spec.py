"""Pipelines as text."""

from __future__ import annotations

import pytest

from tersor.errors import UsageError
from tersor.passes import EXACT
from tersor.spec import parse, pass_names, render


def test_the_default_pipeline_parses_and_prints_back() -> None:
    passes = parse(EXACT)
    assert render(passes) == ",".join(EXACT)
    assert parse(render(passes)) == passes


@pytest.mark.parametrize("name", pass_names())
def test_every_pass_has_a_text_form(name: str) -> None:
    (item,) = parse(name)
    assert render([item]) == name
    assert hash(item) == hash(parse(name)[0])


def test_options_survive_the_round_trip() -> None:
    text = "fold-constants{limit_bytes=123}"
    assert render(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("canonicalise", "did you mean 'canonicalize'"),
        ("fold-constants{limit_byte=1}", "did you mean 'limit_bytes'"),
        ("fold-constants{limit_bytes=many}", "wanted"),
        ("fold-constants{limit_bytes", "cannot read the pipeline"),
        ("dead-code;canonicalize", "cannot read the pipeline"),
    ],
)
def test_mistakes_are_named_with_the_remedy(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)


def test_an_object_that_is_no_pass_is_refused() -> None:
    with pytest.raises(UsageError, match="is not a pass"):
        parse([3])
