"""All exact passes together on whole models: equal outputs, a fixed point, fewer nodes, from torch and from ONNX."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn

from tersor.bindings import bindings
from tersor.capture.sources import load
from tersor.capture.torch import capture_module
from tersor.context import Context
from tersor.passes import EXACT
from tersor.program import Program
from tersor.refresh import refresh
from tersor.spec import parse, pass_names
from tests.passes.harness import listing, operators

SWEEPS = 3


def settle(program: Program) -> int:
    """Apply all exact passes until none finds a site; returns how often they ran."""
    for sweep in range(1, SWEEPS + 1):
        edits = 0
        for item in parse(",".join(EXACT)):
            item(program, context := Context())
            edits += len(context.taken)
            if context.taken:
                refresh(program)
        if not edits:
            return sweep
    raise AssertionError(f"no fixed point after {SWEEPS} sweeps")


def check(program: Program) -> Program:
    """The settled program, compared with the original at several sizes."""
    refresh(program)
    settled = refresh(program.clone())
    settle(settled)
    for binding in bindings(program):
        for wanted, got in zip(program.run(binding.inputs), settled.run(binding.inputs), strict=True):
            assert wanted.shape == got.shape
            assert wanted.dtype == got.dtype
            torch.testing.assert_close(got, wanted, rtol=2e-4, atol=2e-5, equal_nan=True)
    assert len(settled.graph.nodes) <= len(program.graph.nodes)
    return settled


def test_every_name_is_a_pass() -> None:
    assert set(EXACT) <= set(pass_names())
    assert all(type(item).exact for item in parse(",".join(EXACT)))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("zoo:digits-vit", {"linear": 17, "layer_norm": 9, "gelu": 4}),
        ("zoo:convnext", {"layer_norm": 7, "sub": 0, "mul": 0}),
        ("zoo:decoder", {"rms_norm": 5, "linear": 9, "rsqrt": 0}),
        pytest.param("zoo:text-encoder", {"gelu": 3, "erf": 0, "split_with_sizes": 3}, marks=pytest.mark.slow),
        ("zoo:unet", {"silu": 10}),
    ],
)
def test_zoo(name: str, wanted: dict[str, int]) -> None:
    found = operators(check(load(name)))
    assert {operator: found[operator] for operator in wanted} == wanted


@pytest.mark.parametrize("name", [pytest.param("timm:test_vit", marks=pytest.mark.slow), "timm:test_byobnet"])
def test_timm(name: str) -> None:
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")
    found = operators(check(load(name)))
    assert found["batch_norm"] == found["clone"] == found["view"] == 0


@pytest.mark.parametrize("name", ["hf:bert", pytest.param("hf:llama", marks=pytest.mark.slow)])
def test_transformers(name: str) -> None:
    if find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    check(load(name))


class Mixed(nn.Module):
    """Layers that ONNX exporters take apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Hardswish())
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, 4, 4) to (N, 16, 8)."""
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.down(nn.functional.gelu(self.up(self.norm(tokens))))
        tokens = nn.functional.silu(tokens)
        return (tokens * torch.rsqrt(tokens.pow(2).mean(-1, keepdim=True) + 1e-6)).softmax(-1)


@pytest.mark.parametrize("dynamo", [True, False], ids=["torch.export", "TorchScript"])
def test_onnx_exports_come_back_whole(dynamo: bool, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, x, path = Mixed().eval(), torch.randn(2, 3, 4, 4), tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options: dict[str, Any] = {"verbose": False} if dynamo else {"dynamic_axes": {"x": {0: "batch"}}}
        dims = ({0: torch.export.Dim("batch")},) if dynamo else None
        torch.onnx.export(
            model,
            (x,),
            str(path),
            input_names=["x"],
            dynamo=dynamo,
            dynamic_shapes=dims,
            opset_version=16 if not dynamo else 18,
            **options,
        )
    settled = check(load(path))
    found = operators(settled)
    torch.testing.assert_close(settled.run((x,))[0], model(x), rtol=1e-4, atol=1e-5)
    wanted = {"conv2d": 1, "batch_norm": 0, "hardswish": 1, "layer_norm": 1, "linear": 2, "gelu": 1, "silu": 1}
    assert {name: found[name] for name in wanted} == wanted
    assert found["rms_norm"] == found["softmax"] == 1


def test_same_layers_from_torch_and_after_another_export() -> None:
    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.randn(2, 3, 4, 4)
    dims = ({0: torch.export.Dim("batch")},)
    once = refresh(capture_module(model, (x,), dims))
    settle(once)
    again = refresh(capture_module(once.module(), (x,), dims))
    settle(again)
    assert operators(once) == operators(again)
    assert len(listing(once)) == len(listing(again))
