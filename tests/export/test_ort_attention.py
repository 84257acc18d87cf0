"""Self-attention as ONNX Runtime's own operator: the same numbers, and only where it is that."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tersor
from tersor.capture import load
from tersor.export import to_onnx_model
from tersor.export.ort_attention import with_whole_attention
from tersor.export.runtime import Session
from tersor.models_zoo.catalog import load as entry_of
from tersor.passes import EXACT
from tersor.pipeline import Reference, run
from tersor.program import Program
from tersor.refresh import refresh
from tersor.spec import parse

HEADS, WIDTH, LENGTH = 4, 8, 6
DYNAMIC = ({0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("tokens", max=64)},)


def thirds(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = map(heads_of, qkv.chunk(3, -1))
    return q, k, v


def heads_of(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:2], HEADS, WIDTH).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def split(qkv: Tensor, x: Tensor) -> Tensor:
    return joined(F.scaled_dot_product_attention(*thirds(qkv)))


def packed(qkv: Tensor, x: Tensor) -> Tensor:
    q, k, v = qkv.reshape(*x.shape[:2], 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4).unbind(0)
    return joined(F.scaled_dot_product_attention(q, k, v, scale=0.2))


def biased(qkv: Tensor, x: Tensor) -> Tensor:
    distance = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
    bias = torch.stack([-distance.abs() / (n + 1.0) for n in range(HEADS)])[None]
    return joined(F.scaled_dot_product_attention(*thirds(qkv), attn_mask=bias, scale=1.0))


def masked(qkv: Tensor, x: Tensor) -> Tensor:
    seen = (x[:, :, 0] > 0)[:, None, None].expand(-1, 1, x.shape[1], -1)
    return joined(F.scaled_dot_product_attention(*thirds(qkv), attn_mask=seen))


def averaged(qkv: Tensor, x: Tensor) -> Tensor:
    """Heads are not only joined behind it."""
    mixed = F.scaled_dot_product_attention(*thirds(qkv)).transpose(1, 2)
    return mixed.reshape(-1, 2, HEADS * WIDTH // 2).sum(1)


def keys_first(qkv: Tensor, x: Tensor) -> Tensor:
    k, q, v = thirds(qkv)
    return joined(F.scaled_dot_product_attention(q, k, v))


def causal(qkv: Tensor, x: Tensor) -> Tensor:
    return joined(F.scaled_dot_product_attention(*thirds(qkv), is_causal=True))


def weights_read_twice(qkv: Tensor, x: Tensor) -> Any:
    q, k, v = thirds(qkv)
    weights = (q @ k.mT / math.sqrt(WIDTH)).softmax(-1)
    return joined(weights @ v), weights.mean(1)


def turned(qkv: Tensor, x: Tensor) -> Tensor:
    q, k, v = thirds(qkv)
    return joined(F.scaled_dot_product_attention(q * torch.arange(1.0, WIDTH + 1), k, v))


class Layer(nn.Module):
    def __init__(self, function: Callable[..., Any], bias: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.qkv = function, nn.Linear(16, 3 * HEADS * WIDTH, bias=bias)

    def forward(self, x: Tensor) -> Any:
        return self.function(self.qkv(x), x)


def fused(function: Callable[..., Any], dynamic: bool, bias: bool = True) -> int:
    """How many operators of ONNX Runtime's there are, in a model whose results are those of the module."""
    model, x = Layer(function, bias).eval(), torch.randn(2, LENGTH, 16)
    program = refresh(load(model, (x,), DYNAMIC if dynamic else None))
    for item in parse("recognise-attention,canonicalize"):
        item(program, tersor.context.Context())
        refresh(program)
    made = with_whole_attention(to_onnx_model(program))
    for value in (x, torch.randn(3, 9, 16)) if dynamic else (x,):
        wanted = model(value)
        got = Session(made, 1).run((value,))
        for one, other in zip(got, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    return sum(node.domain == "com.microsoft" for node in made.graph)


CASES = [(function, dynamic) for function in (split, packed, biased, masked, causal) for dynamic in (False, True)]


@pytest.mark.parametrize(("function", "dynamic"), [*CASES, (averaged, False)])
def test_one_operator(function: Callable[..., Any], dynamic: bool) -> None:
    assert fused(function, dynamic) == 1


def test_thirds_in_another_order_are_read_one_by_one() -> None:
    assert fused(keys_first, True) == 1


def test_layers_without_a_bias() -> None:
    assert fused(split, True, bias=False) == 1


@pytest.mark.parametrize("function", [weights_read_twice, turned])
def test_what_is_something_else_stays(function: Callable[..., Any]) -> None:
    assert fused(function, True) == 0


@pytest.mark.parametrize("dynamic", [False, True])
def test_as_torch_onnx_export_spells_it(dynamic: bool, tmp_path: Path) -> None:
    model, x = Layer(split, True).eval(), torch.randn(2, LENGTH, 16)
    shapes = ({0: "batch", 1: "tokens"},) if dynamic else None
    exported = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert exported is not None
    exported.save(tmp_path / "model.onnx")
    program = load(tmp_path / "model.onnx")
    program = run(program, parse(EXACT), Reference.of(program)).program
    made = with_whole_attention(to_onnx_model(program))
    assert sum(node.domain == "com.microsoft" for node in made.graph) == 1
    torch.testing.assert_close(Session(made, 1).run((x,))[0], model(x), rtol=1e-5, atol=1e-5)


def whole(name: str) -> Program:
    """After the exact passes."""
    entry = entry_of(name)
    program = load(entry.model, entry.inputs, entry.dynamic)
    return run(program, parse(EXACT), Reference.of(program)).program


@pytest.mark.parametrize(("name", "layers"), [("zoo:digits-vit", 4), ("hf:bert", 2), ("hf:t5-encoder", 2)])
def test_all_layers_of_models(name: str, layers: int) -> None:
    program = whole(name)
    model = to_onnx_model(program)
    made, before = with_whole_attention(model), len(model.graph)
    assert sum(node.domain == "com.microsoft" for node in made.graph) == layers
    assert len(made.graph) < before == len(model.graph)
    for got, wanted in zip(Session(made, 1).run(program.inputs), program.run(program.inputs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_only_folders_for_onnxruntime_hold_it(tmp_path: Path) -> None:
    entry = entry_of("zoo:digits-vit")
    fast = tersor.optimize(entry.model, entry.inputs, backend="onnxruntime", progress=False, seconds=0)
    file, folder = fast.to_onnx(tmp_path / "out.onnx"), fast.save(tmp_path / "deployed")
    domains = [{node.domain for node in onnx.load(path).graph.node} for path in (file, folder / "model.onnx")]
    assert domains == [{""}, {"", "com.microsoft"}]
    inputs = tuple(entry.inputs)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: inputs[0].numpy()})
    torch.testing.assert_close(torch.from_numpy(got), entry.model(*inputs), rtol=1e-4, atol=1e-5)
