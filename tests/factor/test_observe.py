"""Statistics on calibration inputs."""

from __future__ import annotations

import torch
from torch import nn

from tersor.calibrate import Tap
from tersor.factor.observe import Moments, channel_rows, last_rows, moments, observe, thinned
from tests.passes.harness import captured


def test_moments_of_a_layers_inputs_and_outputs() -> None:
    model, batches = nn.Linear(5, 3), [(torch.randn(4, 5),), (torch.randn(7, 5),)]
    program = captured(model, batches[0][0])
    name = program.outputs[0].name
    taps = [Tap(name, name, -1), Tap(name, program.placeholders[0].name, -1)]
    found = moments(program, taps, batches)
    rows = torch.cat([x for (x,) in batches])
    for tap, values in zip(taps, (model(rows).detach(), rows), strict=True):
        wanted = Moments.of(values)
        assert found[tap].count == 11
        torch.testing.assert_close(found[tap].mean, wanted.mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[tap].covariance, wanted.covariance, rtol=1e-4, atol=1e-6)


def test_without_data_there_is_nothing() -> None:
    program = captured(nn.Linear(5, 3), torch.randn(4, 5))
    name = program.outputs[0].name
    assert moments(program, [Tap(name, name, -1)], ()) == {}
    assert moments(program, [Tap(name, name, -1)], [(torch.full((4, 5), float("inf")),)]) == {}


def test_hooks_are_called_with_arguments_and_result() -> None:
    model, seen = nn.Linear(5, 3), []
    batches = [(torch.randn(4, 5),), (torch.randn(7, 5),)]
    program = captured(model, batches[0][0])
    observe(program, batches, {program.outputs[0].name: lambda args, result: seen.append((args[0], result))})
    for (x,), (source, result) in zip(batches, seen, strict=True):
        assert torch.equal(source, x)
        torch.testing.assert_close(result, model(x))


def test_rows() -> None:
    value = torch.arange(24.0).reshape(2, 3, 4)
    assert last_rows(value).shape == (6, 4) and channel_rows(value).shape == (8, 3)
    assert torch.equal(channel_rows(value)[1], value[0, :, 1])
    assert thinned(torch.zeros(100_000, 1)).shape[0] <= 1 << 14
