"""Nodes are written as runtimes' fusions look for them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tersor.export import save_onnx
from tests.factor.zoo import seeded
from tests.passes.harness import captured


class Rotary(nn.Module):
    """Rotated queries of two heads (arXiv:2104.09864)."""

    cos: Tensor
    sin: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(32, 32)
        angles = torch.arange(6.0)[:, None] * 10_000 ** -(torch.arange(0, 16, 2.0) / 16)
        self.register_buffer("cos", angles.cos().repeat(1, 2)[None, None])
        self.register_buffer("sin", angles.sin().repeat(1, 2)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).unflatten(2, (2, 16)).transpose(1, 2)
        first, second = query[..., :8], query[..., 8:]
        turned = torch.cat((-second, first), 3)
        return query * self.cos + turned * self.sin


def test_openvino_makes_one_kernel_of_a_rotary_embedding(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="an extra")
    x = seeded(2, 6, 32)
    path = save_onnx(captured(Rotary(), x), tmp_path / "rotary.onnx")
    core = openvino.Core()
    model = core.compile_model(core.read_model(path), "CPU").get_runtime_model()
    kinds = Counter(str(node.get_rt_info()["layerType"].astype(str)) for node in model.get_ordered_ops())
    assert kinds["RoPE"] == 1, kinds
