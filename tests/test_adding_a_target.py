"""The example in docs/adding-a-target.md works as it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tersor.backends._tensorrt_lint_speed import capability
from tersor.errors import UsageError
from tersor.target import named

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "adding-a-target.md"


@pytest.fixture
def sheet() -> dict[str, object]:
    source = re.search(r"```json\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert source is not None
    made: dict[str, object] = json.loads(source[1])
    return made


def test_the_example_is_a_target(sheet: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "my-gpu.json"
    path.write_text(json.dumps(sheet))
    target = named(str(path))
    assert (target.name, target.device, target.units) == ("my-gpu", "cuda", 60)
    assert target.rate("float16") == 100e12 and target.rate("float16", sparse=True) == 200e12
    assert target.rate("float8") == target.rate("float32")
    assert target.bandwidth == 600e9 and target.launch == pytest.approx(2.5e-6)
    assert capability(target) == (8, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bandwidth_gb_s": 600_000}, "bandwidth_gb_s"),
        ({"sms": None}, "sms"),
        ({"speed": 1}, "speed"),
        ({"tflops": {"float33": 1.0}}, "float33"),
    ],
)
def test_mistakes_in_it_are_named(sheet: dict[str, object], tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "my-gpu.json"
    path.write_text(json.dumps({key: value for key, value in {**sheet, **change}.items() if value is not None}))
    with pytest.raises(UsageError, match=message):
        named(str(path))
