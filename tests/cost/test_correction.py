"""Curves fitted to measured operators: they follow a known machine, extend to other sizes, and stay above the bound."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from tersor.cost import context
from tersor.cost.bound import bound
from tersor.cost.context import BlockRow
from tersor.cost.correction import Row, base, fit, raised, seconds
from tersor.cost.launches import Launch
from tersor.cost.slowdown import estimate
from tersor.target import Target
from tersor.targets.blocks import blocks, launches_of
from tersor.targets.probes import Probe, probes

MACHINE = Target(
    "cpu", "cpu", 2, rates={"float32": 2e11, "int8": 8e11}, bandwidth=3e10, cache=3e7, cache_bandwidth=2e11, units=2
)
START, FUNCTION = 1e-6, 2e-10


def true_seconds(launch, resident=True):
    """A machine whose narrow products are slow."""
    slow = 1 + 30 / max(1, min(launch.n, launch.k // launch.window)) if launch.k else 1.5
    return START + slow * base(launch, MACHINE, resident) + FUNCTION * launch.functions


def block_row(block):
    launches = tuple(launches_of(block, True))
    beside = sum(20e-6 * one.moved / 1e6 for one in launches if one.kind == "depthwise")
    return BlockRow(launches, sum(map(true_seconds, launches)) + beside)


@pytest.fixture(scope="module")
def fitted():
    rows = [Row(launch, true_seconds(launch)) for launch in (probe.launch() for probe in probes())]
    return fit(rows, [block_row(block) for block in blocks()], 5e-6, 10e-6, MACHINE)


@pytest.mark.parametrize(
    "probe",
    [
        Probe("linear", 384, 384, 100), Probe("linear", 100, 300, 20), Probe("conv", 48, 48, 28, 3),
        Probe("pointwise_conv", 128, 128, 28), Probe("norm", 256, 256, 300), Probe("attention", 48, 48, 100, groups=8),
        Probe("function", 64, 64, 2000),
    ],
)  # fmt: skip
def test_sizes_that_were_not_measured(fitted, probe):
    launch = probe.launch()
    alone = {**fitted, "context": {}}
    assert seconds(launch, MACHINE, alone, True) == pytest.approx(true_seconds(launch), rel=0.25)


def test_functions_are_told_from_traffic(fitted):
    assert fitted["function"] == pytest.approx(FUNCTION, rel=0.3)


def test_what_blocks_cost_beside_each_other_is_found():
    rows = [block_row(block) for block in blocks()]
    found = context.fit(rows, [list(map(true_seconds, row.launches)) for row in rows], MACHINE.bandwidth)
    assert found.pop("depthwise, MB") == pytest.approx(20e-6, rel=0.05)
    assert max(found.values()) < 1e-6


def test_no_byte_takes_much_longer_than_memory():
    rows = [block_row(block) for block in blocks()]
    slow = [BlockRow(row.launches, 50 * row.seconds) for row in rows]
    found = context.fit(slow, [list(map(true_seconds, row.launches)) for row in rows], MACHINE.bandwidth)
    assert max(value for name, value in found.items() if "MB" in name) <= 2.01e6 / MACHINE.bandwidth


def test_survives_the_file(fitted):
    assert json.loads(json.dumps(fitted)) == fitted


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["linear", "conv", "depthwise", "bmm", "attention", "norm", "elementwise", "permute", "unheard"]),
    st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 4000), st.sampled_from(["float32", "int8"]),
    st.booleans(),
)  # fmt: skip
def test_never_below_the_bound(fitted, kind, m, n, k, dtype, resident):
    target = dataclasses.replace(MACHINE, corrections={"onnxruntime": fitted})
    deep = k if kind in ("linear", "conv", "bmm", "attention") else 0
    launch = Launch(kind, ("x",), dtype, 2.0 * m * n * deep, 4.0 * m * n, 4.0 * n * deep, 1, m, n, deep)
    found = estimate(launch, target, "onnxruntime", resident)
    assert math.isfinite(found.seconds)
    assert bound(launch, target, resident).seconds <= found.low <= found.seconds <= found.high


def test_rates_are_raised_to_what_was_measured():
    launch = Probe("linear", 512, 512, 512).launch()
    faster = raised(MACHINE, [Row(launch, launch.flops / 9e11)])
    assert faster.rates["float32"] == pytest.approx(9e11) and faster.rates["int8"] == MACHINE.rates["int8"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_least_squares_without_negative_coefficients(seed):
    generator = np.random.default_rng(seed)
    rows, wanted = generator.random((20, 5)), generator.standard_normal(20)
    ours, (_, best) = context.non_negative(rows, wanted), nnls(rows, wanted)
    assert (ours >= 0).all()
    assert np.linalg.norm(rows @ ours - wanted) <= 1.01 * best + 1e-9
