"""The JSON form is valid JSON, follows the published schema, and the schema follows the dataclasses."""

import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from tersor.report import schema
from tersor.report.model import Report
from tests.report.samples import hostile, sample

PUBLISHED = Path(__file__).parents[2] / "docs" / "report-schema.json"


@pytest.mark.parametrize("report", [sample(), hostile(), Report("x.onnx", "", "cpu")], ids=["full", "hostile", "empty"])
def test_follows_the_published_schema(report):
    jsonschema.validate(json.loads(report.json()), json.loads(PUBLISHED.read_text()))


def test_published_schema_is_the_one_of_the_dataclasses():
    jsonschema.Draft202012Validator.check_schema(schema.schema())
    assert PUBLISHED.read_text() == schema.render(), "write `python -m tersor.report.schema` to docs/report-schema.json"


def test_schema_refuses_what_is_not_documented():
    value = json.loads(sample().json())
    value["extra"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, schema.schema())


def test_numbers_that_json_lacks_are_strings():
    outputs = json.loads(sample().json())["parity"][-1]["outputs"]["logits"]
    assert outputs["absolute"] == "inf" and outputs["relative"] == "nan"


def test_descriptions_come_from_docstrings():
    assert "reproduces" in schema.schema()["properties"]["command"]["description"]
