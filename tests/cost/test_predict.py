"""Predictions: never below the roofline, monotone where physics says so, and near what was measured."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tersor.capture.torch import capture_module
from tersor.cost.bound import bound, gains_from_zeros, on_tensor_cores
from tersor.cost.classes import shares
from tersor.cost.launches import Launch
from tersor.cost.predict import cost
from tersor.cost.regressors import evaluate
from tersor.cost.slowdown import estimate
from tersor.errors import UsageError
from tersor.target import Target, named

GPUS = ("h100", "a100-40", "t4", "p4", "rtx4090", "jetson-orin-nano")


def product(m, n, k, dtype="float32", **more):
    size = {"float32": 4, "float16": 2, "int8": 1}[dtype]
    moved, weights = size * float(m * k + m * n), size * float(n * k)
    return Launch("linear", ("x",), dtype, 2.0 * m * n * k, moved, weights, 1, m, n, k, **more)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(GPUS), st.sampled_from(["float32", "float16", "int8"]), st.integers(1, 5000), st.integers(1, 5000),
    st.integers(1, 5000), st.sampled_from(["eager", "inductor"]),
)  # fmt: skip
def test_never_below_the_bound(name, dtype, m, n, k, backend):
    found = estimate(product(m, n, k, dtype), named(name), backend)
    assert math.isfinite(found.seconds) and 0 < found.least <= found.low <= found.seconds <= found.high
    assert found.seconds < 1000 * found.least


def test_bound_is_the_roofline():
    target = Target("t", "cuda", rates={"float32": 1e12}, bandwidth=1e9)
    assert bound(product(1000, 1000, 1000), target).compute == pytest.approx(2e-3)
    assert bound(product(1000, 1000, 1000), target).memory == pytest.approx(12e-3)


@pytest.mark.parametrize(("n", "k", "fits"), [(64, 64, True), (60, 64, False), (64, 63, False)])
def test_tensor_cores_want_multiples(n, k, fits):
    assert on_tensor_cores(product(32, n, k, "float16"), named("h100")) is fits
    assert not on_tensor_cores(product(32, n, k, "float32"), named("h100"))
    assert not on_tensor_cores(product(32, n, k, "float16"), named("p100"))


def test_sparse_gains_depend_on_device_and_shape():
    large, small = (product(4096, size, size, "float16", sparse=True) for size in (4096, 128))
    assert gains_from_zeros(large, named("a100-40")) and not gains_from_zeros(large, named("v100"))
    assert not gains_from_zeros(small, named("a100-40"))
    dense = estimate(product(4096, 4096, 4096, "float16"), named("a100-40")).seconds
    assert 1.2 < dense / estimate(large, named("a100-40")).seconds < 2


def test_shares_add_to_one():
    for launch in (product(8, 100, 300), product(8, 1, 1), product(8, 9999, 9999, "float16")):
        assert sum(weight for _, weight in shares(launch)) == pytest.approx(1)


def test_trees_as_they_are_written_down():
    tree = [[0, 0.5, 1, 2, 0], [-1, 0, 0, 0, 1.0], [1, 2.0, 3, 4, 0], [-1, 0, 0, 0, 2.0], [-1, 0, 0, 0, 4.0]]
    model = {"form": "trees", "start": 0.5, "trees": [tree]}
    assert evaluate(model, [[0.5, 9.0], [1.0, 2.0], [1.0, 3.0]]).tolist() == [1.5, 2.5, 4.5]


@pytest.fixture(scope="module")
def program():
    return capture_module(
        nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)).eval(), (torch.randn(2, 64),)
    )


def test_whole_program(program):
    found = cost(program, named("h100"), "inductor", "fp16", batch=4096)
    assert found.bound <= found.low <= found.seconds <= found.high
    assert found.batch == 4096 and found.precision == "float16"
    assert found.flops == 2 * 4096 * 2 * 64 * 256
    assert found.seconds == pytest.approx(sum(layer.seconds for layer in found.layers))
    assert cost(program, named("t4"), "inductor", "fp16", batch=4096).seconds > found.seconds


def test_target_without_sheet_and_bad_batch(program):
    with pytest.raises(UsageError, match="data sheet"):
        cost(program, named("cuda"))
    with pytest.raises(UsageError, match="batch"):
        cost(program, named("h100"), batch=0)
    with pytest.raises(UsageError, match="precision"):
        cost(program, named("h100"), precision="fp12")
