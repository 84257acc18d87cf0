"""A net that min-max quantization ruins is brought back within a point, by layers that stay in floating point."""

from __future__ import annotations

import pytest
import torch

from tersor.context import Context
from tersor.passes.quantize import Quantize
from tersor.program import Program
from tersor.quality import Data, Quality
from tersor.refresh import refresh
from tests.factor.zoo import Trained, trained

BOTTLENECKS = (((1, 2), ("blocks.2.expand.0", "blocks.3.expand.0")), ((3, 4), ("blocks.4.expand.0", "last.0")))
"""Blocks whose outputs are added, and the layers that read them: nothing lies between but additions."""


def with_outlier_channels(model: Trained) -> Program:
    """The same function with channels of very different size, as trained mobile nets have them.

    A channel is multiplied by a power of two where it is made, and divided by it where it is read, which is exact.
    """
    made = model.program.clone()
    generator = torch.Generator().manual_seed(0)
    for blocks, readers in BOTTLENECKS:
        channels = made.weights[f"blocks.{blocks[0]}.project.0.weight_1"].shape[0]
        factor = torch.randint(-4, 5, (channels,), generator=generator).float().exp2()
        for block in blocks:
            name = f"blocks.{block}.project.0.weight"
            made.weights[f"{name}_1"] = made.weights[f"{name}_1"] * factor[:, None, None, None]
            made.weights[f"{name}_bias"] = made.weights[f"{name}_bias"] * factor
        for reader in readers:
            made.weights[f"{reader}.weight_1"] = made.weights[f"{reader}.weight_1"] / factor[:, None, None]
    return refresh(made)


def after(program: Program, item: Quantize, context: Context) -> Program:
    made = program.clone()
    item(made, context)
    return refresh(made)


@pytest.mark.slow
def test_a_net_that_collapses_under_min_max_is_repaired() -> None:
    model = trained("zoo:digits-mobile")
    program = with_outlier_channels(model)
    wanted = model.accuracy(model.program)
    torch.testing.assert_close(program.run(program.inputs), model.program.run(program.inputs), rtol=1e-4, atol=1e-4)
    plain = after(program, Quantize(ranges="min-max", noise=1.0, anyway=True), Context(calibration=model.calibration))
    assert model.accuracy(plain) < wanted - 0.05, "the premise of this test"
    context = Context(calibration=model.calibration)
    repaired = after(program, Quantize(anyway=True), context)
    assert model.accuracy(repaired) >= wanted - 0.01
    record = context.precision
    assert record is not None and 0 < record.returned < 0.5
    assert sum(layer.kept for layer in record.layers) > len(record.layers) / 2


@pytest.mark.slow
def test_the_users_metric_decides_where_it_is_stricter_than_the_noise() -> None:
    model = trained("zoo:digits-mobile")
    program = with_outlier_channels(model)
    data = Data(model.calibration, model.calibration)
    quality = Quality.of(model.program, model.evaluator, 0.005, data)
    context = Context(calibration=model.calibration, quality=quality)
    made = after(program, Quantize(ranges="min-max", noise=1.0, anyway=True), context)
    assert quality.problem(quality.measure(made)) is None
    assert context.taken and any("given back" in site.detail for site in context.skipped)
