"""Quantized programs run in fewer steps, and compute the same to the bit."""

from __future__ import annotations

import torch
from torch import nn

from tersor.context import Context
from tersor.passes.quantize import Quantize
from tersor.refresh import refresh
from tersor.rounding import fused, is_quantized
from tests.passes.harness import captured


def test_the_results_are_equal_to_the_bit_and_no_weight_is_taken_back_twice() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(8 * 64, 10))
    program = captured(net, torch.randn(4, 3, 12, 12))
    assert not is_quantized(program.graph)
    Quantize(noise=1.0, anyway=True)(program, Context())
    refresh(program)
    made = fused(program.graph, program.weights)
    with torch.no_grad():
        for scale in (0.1, 1.0, 20.0):
            x = torch.randn(4, 3, 12, 12) * scale
            (plain,), (quick,) = program.module()(x), made(x)
            assert torch.equal(plain, quick) and torch.equal(program.run((x,))[0], plain)
    names = [str(node.target) for node in made.graph.nodes if node.op == "call_function"]
    assert any("fake_quantize" in name for name in names) and not any("decomposed" in name for name in names)
