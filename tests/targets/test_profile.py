"""Profiles of this machine: measured, kept, read back, and ignored where they are damaged."""

import pytest

from tersor.target import Target, detect
from tersor.targets import measure, profile


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_measured_rates_are_plausible_and_come_back():
    made = measure.measure(Target("cpu", "cpu", 1), seconds=0.3)
    assert 1e9 < made.rates["float32"] < 1e14
    assert 1e8 < made.bandwidth < 1e13
    assert 0 < made.launch < 1e-2
    path = profile.save(made)
    assert path.is_file()
    assert profile.measured(Target("cpu", "cpu", 1)).rates == made.rates


def test_detection_reads_the_profile():
    here = detect()
    assert not here.rates
    profile.save(measure.replace(here, rates={"float32": 1e11}, bandwidth=1e10, source="a test"))
    assert detect().rates == {"float32": 1e11}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"rates": 3}'])
def test_damaged_profile_is_ignored(text):
    target = Target("cpu", "cpu", 1)
    path = profile.path(target)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert profile.measured(target) == target
