"""Data sheets: what they must hold, what a user's file may get wrong, and how names are found."""

import json

import pytest

from tersor.errors import UsageError
from tersor.target import Target, named
from tersor.targets.sheets import from_file, from_sheet, sheets

WANTED = (
    "h200", "h100", "a100-40", "a100-80", "l4", "l40s", "t4", "v100", "p100", "p4", "rtx3090", "rtx4090", "rtx5090",
    "rtx-pro-6000", "jetson-agx-orin",
)  # fmt: skip
GOOD = {
    "name": "mine", "sms": 10, "boost_mhz": 1000, "power_w": 50, "memory_gb": 8, "bandwidth_gb_s": 100, "l2_mb": 4,
    "launch_us": 3, "tflops": {"float32": 2.0},
}  # fmt: skip


@pytest.mark.parametrize("name", WANTED)
def test_sheet_is_there_with_its_source(name):
    target = named(name)
    assert target.source and target.device == "cuda" and target.bandwidth > 5e10
    assert set(target.sparse) <= set(target.rates)
    assert all(target.sparse[dtype] == pytest.approx(2 * target.rates[dtype]) for dtype in target.sparse)


CORES = {"p100": 64, "v100": 64, "t4": 64, "a100-40": 64, "h100": 128, "l4": 128, "rtx3090": 128, "rtx5090": 128}
"""Float32 units of a multiprocessor."""


@pytest.mark.parametrize(("name", "cores"), CORES.items())
def test_float32_rate_is_that_of_the_cores_at_the_highest_clock(name, cores):
    target = named(name)
    assert target.rates["float32"] == pytest.approx(2 * cores * target.units * target.clock, rel=0.02)


@pytest.mark.parametrize("spelled", ["RTX4090", "rtx_pro_6000", "Jetson AGX Orin"])
def test_spelling_is_forgiven(spelled):
    assert named(spelled).rates


def test_unknown_name_tells_the_nearest():
    with pytest.raises(UsageError, match="rtx4090"):
        named("rtx490")


def test_users_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(GOOD))
    target = named(str(path))
    assert isinstance(target, Target)
    assert (target.name, target.bandwidth, target.rate("float16")) == ("mine", 1e11, 2e12)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"bandwidth_gb_s": 1e11}, "bandwidth_gb_s"),
        ({"tflops": {"float32": 2e12}}, "tflops"),
        ({"tflops": {"float32": "2"}}, "tflops"),
        ({"tflops": {"fp32": 2.0}}, "fp32"),
        ({"tflops": {"float16": 2.0}}, "float32"),
        ({"bandwidth_tb_s": 3}, "unknown"),
        ({"sms": True}, "sms"),
    ],
)
def test_wrong_units_are_named(change, match):
    with pytest.raises(UsageError, match=match):
        from_sheet({**GOOD, **change})


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_file_that_is_no_sheet(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"bad\.json"):
        from_file(path)


def test_missing_file_and_key(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        from_file(tmp_path / "none.json")
    with pytest.raises(UsageError, match="sms"):
        from_sheet({key: value for key, value in GOOD.items() if key != "sms"})


def test_a_target_is_hashable():
    assert len({named("h100"), named("h200"), sheets()["h100"]}) == 2
