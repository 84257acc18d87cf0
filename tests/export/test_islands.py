"""A layer in floating point between quantized tensors keeps its weight in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from tersor.context import Context
from tersor.export import islands, save_onnx
from tersor.export.runtime import Session
from tersor.passes.quantize import Quantize
from tersor.program import Program
from tersor.quant.fallback import partly_quantized
from tersor.quant.grid import grid
from tersor.quant.placement import rules
from tersor.quant.plan import Layer, candidates
from tersor.quant.static import prepare
from tests.factor.zoo import seeded
from tests.passes.harness import captured


def net(middle: nn.Conv2d) -> nn.Sequential:
    """Channels of a layer in the middle differ by a factor of 1,000, which one scale for all cannot hold."""
    torch.manual_seed(0)
    last, spread = nn.Conv2d(16, 8, 1), torch.logspace(-2, 1, 16)
    with torch.no_grad():
        middle.weight *= spread.view(-1, 1, 1, 1)
        last.weight /= spread.view(1, -1, 1, 1)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), middle, last)


def quantized(model: nn.Module, left_out: str) -> tuple[Program, torch.Tensor]:
    x = seeded(2, 3, 12, 12)
    program, table = captured(model, x), rules("onnxruntime")
    layers = [layer for _, layer in candidates(program, table) if isinstance(layer, Layer)]
    # Seven bits: without VNNI, eight by eight saturate in ONNX Runtime's products.
    formats = grid("int7"), grid(table.activations)
    ready = prepare(program, layers, table, formats, "min-max", "nearest", [(x,)], 0)
    return partly_quantized(ready.program, [layer for layer in layers if layer.node.name != left_out], ready.put), x


LAYERS = [
    lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16),
    lambda: nn.Conv2d(16, 16, 3, padding=1),
    lambda: nn.Conv2d(16, 16, 3, padding=1, groups=2),
]


@pytest.mark.parametrize("make", LAYERS, ids=["depthwise", "dense", "grouped"])
def test_the_runtime_computes_what_the_program_does(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, x = quantized(net(make()), "conv2d_1")
    wanted = program.run((x,))[0]

    def off(path: Path) -> float:
        made = Session(save_onnx(program, path), 1).run((x,))[0]
        return float((made - wanted).abs().max() / wanted.abs().max())

    assert off(tmp_path / "ours.onnx") < 0.01
    program.derived.clear()
    monkeypatch.setattr(islands, "LAYERS", ())
    assert off(tmp_path / "plain.onnx") > 0.05


def test_added_zeros_become_the_padding_of_an_integer_convolution(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(32, 32, 3, stride=2), nn.ReLU()
    )
    x = seeded(2, 3, 16, 16)
    program = captured(model, x)
    Quantize(anyway=True, noise=1)(program, Context(calibration=((x,),)))
    path = save_onnx(program, tmp_path / "padded.onnx")
    nodes = onnx.load(path).graph.node
    assert "Pad" not in {node.op_type for node in nodes}
    assert sum(node.op_type == "QuantizeLinear" for node in nodes) == 3
    made = Session(path, 1).run((x,))[0]
    torch.testing.assert_close(made, program.run((x,))[0], rtol=0, atol=0.02)
