"""The report for programs; ``docs/report-schema.json`` describes it."""

from __future__ import annotations

import json
import math
from typing import Any

from tersor.report.model import Report


def render_json(report: Report) -> str:
    """Indented JSON. Numbers that JSON lacks are the strings ``"nan"``, ``"inf"`` and ``"-inf"``."""
    return json.dumps(plain(report.as_dict()), indent=1, allow_nan=False, ensure_ascii=False)


def plain(value: Any) -> Any:
    """The value with every number that JSON lacks as a string.

    >>> plain({"a": float("inf"), "b": [1.5]})
    {'a': 'inf', 'b': [1.5]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
