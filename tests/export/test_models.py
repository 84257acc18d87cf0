"""Whole models: equal values at several sizes, and no more nodes than torch.onnx.export writes."""

import time
import warnings
from typing import Any

import pytest
import torch

from tersor.bindings import bindings
from tersor.capture import load
from tersor.capture.torch import capture_module
from tersor.export import to_onnx_model
from tersor.export.runtime import Session
from tersor.program import Program

BATCH = torch.export.Dim("batch", min=1)


def nodes_of_torch(model: torch.nn.Module, inputs: Any, dynamic: Any) -> int:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
        exported_program = torch.export.export(model, args, kwargs, dynamic_shapes=dynamic)
        made = torch.onnx.export(exported_program, dynamo=True, verbose=False, opset_version=20)
    assert made is not None
    return len(made.model.graph)


def agree(program: Program, tolerance: float = 2e-5) -> int:
    model = to_onnx_model(program)
    session = Session(model, 1)
    for binding in bindings(program):
        for wanted, got in zip(program.run(binding.inputs), session.run(binding.inputs), strict=True):
            scale = max(1.0, float(wanted.abs().max()))
            torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance * scale)
    return len(model.graph)


@pytest.mark.parametrize("name", ["zoo:digits-vit"])
def test_zoo(name):
    catalog = pytest.importorskip("tersor.models_zoo.catalog", reason="the zoo is not there")
    entry = catalog.load(name)
    assert agree(load(name)) <= nodes_of_torch(entry.model, entry.inputs, entry.dynamic)


@pytest.mark.slow
def test_every_zoo_model():
    catalog = pytest.importorskip("tersor.models_zoo.catalog", reason="the zoo is not there")
    for name in catalog.names("zoo"):
        agree(load(name))


@pytest.mark.slow
def test_time_grows_linearly_with_the_graph():
    class Chain(torch.nn.Module):
        def __init__(self, layers: int) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(layers))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = x + layer(x).reshape(x.shape[0], -1, 4).relu()
            return x

    seconds = {}
    for layers in (20, 80):
        program = capture_module(Chain(layers).eval(), (torch.randn(2, 3, 4),), ({0: BATCH},))
        start = time.process_time()
        model = to_onnx_model(program)
        seconds[layers] = time.process_time() - start
        assert len(model.graph) == 4 * layers
    assert seconds[80] < 10 * seconds[20]
