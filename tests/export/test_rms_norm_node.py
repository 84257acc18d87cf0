"""RMS norms are one node from the opset on that has one, and the chain that runtimes know before."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tersor.capture.torch import capture_module
from tersor.export import save_onnx
from tersor.refresh import refresh


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.RMSNorm(8, eps=1e-3), nn.RMSNorm((5, 8), elementwise_affine=False)
        nn.init.normal_(self.one.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x) * 3)


@pytest.mark.parametrize(("opset", "nodes"), [(20, 0), (23, 2)])
def test_norms_of_one_and_two_axes(opset: int, nodes: int, tmp_path: Path) -> None:
    model, x = Norms().eval(), torch.randn(2, 5, 8)
    path = save_onnx(refresh(capture_module(model, (x,))), tmp_path / "a.onnx", opset)
    made = [node.op_type for node in onnx.load(path).graph.node]
    assert made.count("RMSNormalization") == nodes
    session = onnxruntime.InferenceSession(path)
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), model(x), rtol=1e-5, atol=1e-5)
