"""Predicted gains against the arithmetic of data sheets, by hand."""

from __future__ import annotations

import pytest
import torch

from tersor.errors import UsageError
from tersor.sparse.gain import Gain, Job, predict
from tersor.sparse.pack import TWO_FOUR
from tersor.sparse.pattern import Pattern
from tersor.target import Target

GPU = Target(
    "toy", "cuda", capability="8.0", rates={"float16": 100e12, "int8": 200e12, "float32": 10e12},
    sparse={"float16": 200e12, "int8": 400e12}, bandwidth=1e12, launch=1e-6,
)  # fmt: skip


def job(rows: int, size: int = 4096, dtype: torch.dtype = torch.float16) -> Job:
    return Job((size, size), rows, rows, dtype)


def gain(found: Gain | str) -> Gain:
    assert isinstance(found, Gain), found
    return found


def test_many_rows_gain_arithmetic() -> None:
    found = gain(predict(job(4096), TWO_FOUR, "tensorrt", GPU))
    assert found.dense == pytest.approx(2 * 4096**3 / 100e12 + 1e-6)
    assert found.sparse == pytest.approx(2 * 4096**3 / 200e12 + 1e-6)
    assert "predicted gain of at most 2.00 on toy with TensorRT" in str(found)


def test_few_rows_gain_bytes() -> None:
    found = gain(predict(job(1), TWO_FOUR, "triton", GPU))
    moved = 2 * 2 * 4096
    assert found.kernel == "sparse_24_matmul"
    assert found.dense == pytest.approx((2 * 4096**2 + moved) / 1e12 + 1e-6)
    assert found.sparse == pytest.approx((2 * 4096**2 * 9 / 16 + moved) / 1e12 + 1e-6)
    whole = gain(predict(job(1, dtype=torch.int8), TWO_FOUR, "triton", GPU))
    assert whole.sparse == pytest.approx((4096**2 * 10 / 16 + 2 * 4096) / 1e12 + 1e-6)


def test_the_launch_is_most_of_a_small_layer() -> None:
    assert gain(predict(job(8, 256), TWO_FOUR, "triton", GPU)).ratio < 1.1


def test_many_rows_are_left_to_kernels_that_skip() -> None:
    assert gain(predict(job(65), TWO_FOUR, "triton", GPU)).kernel == "cuSPARSELt"
    odd = Job((4096, 4100), 65, 65, torch.float16)
    found = predict(odd, TWO_FOUR, "triton", GPU)
    assert isinstance(found, str) and "65 rows are more than the 64" in found and "4100 inputs" in found


@pytest.mark.parametrize(
    ("layer", "pattern", "target", "reason"),
    [
        (job(8), TWO_FOUR, Target("cpu"), "no kernel of target cpu skips the zeros of 2:4: predicted gain 1.00"),
        (job(8), Pattern(1, 4), GPU, "no kernel skips the zeros of 1:4"),
        (job(8), TWO_FOUR, Target("cuda", "cuda"), "target cuda has no data sheet"),
        (job(8, dtype=torch.float32), TWO_FOUR, GPU, "toy has no sparse rate for float32"),
        (Job((512, 512, 3, 3), 64, 64, torch.float16), TWO_FOUR, GPU, "only matrices have sparse kernels"),
    ],
)
def test_reasons(layer: Job, pattern: Pattern, target: Target, reason: str) -> None:
    found = predict(layer, pattern, "triton", target)
    assert isinstance(found, str) and reason in found


def test_unknown_backend() -> None:
    with pytest.raises(UsageError, match="one of tensorrt, triton"):
        predict(job(8), TWO_FOUR, "onnxruntime", GPU)
