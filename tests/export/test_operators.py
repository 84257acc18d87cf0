"""Each operator through the export, against eager PyTorch at two sizes of its dynamic axes."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.capture.torch import capture_module
from tersor.context import Context
from tersor.errors import ExportError
from tersor.export import to_onnx_model
from tersor.passes.canonicalize import Canonicalize
from tests.export.models import BATCH, Each, captured, exported, operators, weight_bytes

ONE_NODE: dict[str, Callable[..., Any]] = {
    "HardSwish": F.hardswish,
    "HardSigmoid": F.hardsigmoid,
    "HardSigmoid sloped": lambda x: (x * 0.2 + 0.5).clamp(0, 1),
    "Elu": lambda x: F.elu(x, 0.5),
    "Softplus": F.softplus,
    "Clip": F.hardtanh,
    "Clip six": F.relu6,
    "Clip below": lambda x: x.clamp(min=0.5),
    "Gelu": F.gelu,
    "Gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "LayerNormalization": nn.LayerNorm(8),
    "LayerNormalization plain": nn.LayerNorm(8, elementwise_affine=False),
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "ReduceMean": lambda x: x.mean((2, 3)),
    "Resize": lambda x: F.interpolate(x, scale_factor=2),
    "Resize to a size": lambda x: F.interpolate(x, size=(18, 24)),
    "Resize bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "Resize aligned": lambda x: F.interpolate(x, size=(18, 24), mode="bilinear", align_corners=True),
    "Resize bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "Conv": nn.Conv2d(4, 6, 3, padding=1, bias=False),
    "Conv grouped": nn.Conv2d(4, 8, 3, groups=2, stride=2, dilation=2),
    "Conv same": nn.Conv2d(4, 6, (3, 5), padding="same"),
    "Conv padded": nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(4, 6, 3)),
    "ConvTranspose": nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, bias=False),
    "BatchNormalization": nn.BatchNorm2d(4),
    "DepthToSpace": nn.PixelShuffle(2),
    "Reshape": lambda x: x.reshape(x.shape[0], -1),
    "Reshape into the batch": lambda x: x.view(x.shape[0] * 4, 6 * 8),
    "Reshape of a reshape": lambda x: x.reshape(-1, 6, 8).reshape(x.shape[0], 24, 8),
    "Transpose": lambda x: x.transpose(1, 2).transpose(1, 3),
    "MaxPool": nn.MaxPool2d(2, ceil_mode=True),
    "Softmax": lambda x: x.softmax(-1),
    "Slice": lambda x: x[:, 1:, ::2],
    "Identity": lambda x: x.transpose(1, 2).transpose(2, 1),
    "Identity through views": lambda x: x.unsqueeze(1).squeeze(1).unsqueeze(-1).reshape(x.shape),
}

SEVERAL: dict[str, Callable[..., Any]] = {
    "silu": F.silu,
    "group norm": nn.GroupNorm(2, 4),
    "rms norm": nn.RMSNorm(8),
    "batch norm without weights": nn.BatchNorm2d(4, affine=False),
    "roll": lambda x: x.roll((1, -2), (2, 3)),
    "roll flat": lambda x: x.roll(5),
    "rectangular": lambda x: F.interpolate(x, size=(7, 13)),
    "chunk": lambda x: torch.cat(x.chunk(3, 2)[::-1], 2),
    "unbind": lambda x: torch.stack(x.unbind(1)[::-1], 1),
    "expand": lambda x: x[:, :1].expand(-1, 5, 6, 8) + 1,
    "cat": lambda x: torch.cat([x, torch.zeros(x.shape[0], 1, 6, 8)], 1),
    "arange": lambda x: x + torch.arange(x.shape[0]).reshape(-1, 1, 1, 1),
    "scatter": lambda x: x.scatter_reduce(1, (x > 0).long(), x, "sum"),
    "pixel unshuffle": nn.PixelUnshuffle(2),
    "steep log of sigmoid": lambda x: F.logsigmoid(x * 1000),
    "softplus": lambda x: F.softplus(x * 30, 0.5, 5.0),
    "selu": F.selu,
    "integers": lambda x: (x * 5).long().clamp(0.5, 3.5),
    "from a number": lambda x: torch.rsub(x, 2, alpha=3) + (1 - x),
    "integers from a number": lambda x: (1.5 - (x * 5).long()) + (3 - (x * 5).long()),
    "squeeze": lambda x: x.mean((1, 3), keepdim=True).squeeze((1, 2, 3)),
    "from a computed number": lambda x: torch.rsub(torch.arange(x.shape[2]), x.shape[0]) + x.sum(),
    "constant": lambda x: torch.ones(2, 2).cumsum(0) * 3 + x.sum(),
}


def test_one_node_each():
    functions = dict(ONE_NODE)
    model = exported(captured(Each(functions), 3, 4, 6, 8))
    for name, value in zip(functions, model.graph.outputs, strict=True):
        node = value.producer()
        assert node is not None and node.op_type == name.split()[0], name
        assert node.inputs[0] is model.graph.inputs[0], name
    assert len(model.graph) == len(functions)


def test_several_nodes_each():
    exported(captured(Each(dict(SEVERAL)), 3, 4, 6, 8))


def test_no_second_trace(monkeypatch):
    """torch.onnx traces again what it has no form of, in half of the time that an export takes."""
    program = captured(lambda x: (1 - x).mean((1, 3), keepdim=True).squeeze((1, 3)), 3, 4, 6, 8)
    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", None)
    assert operators(exported(program)) == {"Sub": 1, "ReduceMean": 1, "Squeeze": 1}


def test_an_axis_whose_size_is_computed_and_one_is_squeezed():
    """Pooling leaves one row of 3 to 5; a size that is an expression is no reason to keep the axis."""
    height = {2: torch.export.Dim("height", min=3, max=5)}
    model = Each({"pooled": lambda x: F.max_pool2d(x, (3, 1)).squeeze((2,))}).eval()
    program = capture_module(model, (torch.randn(2, 4, 4, 5),), (height,))
    assert operators(to_onnx_model(program)) == {"MaxPool": 1, "Squeeze": 1}


def test_a_whole_batch_norm_is_one_node():
    """Where nothing else has to be decomposed, torch.onnx has no translation of it."""
    program = captured(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)), 2, 4, 3, 3)
    Canonicalize()(program, Context())
    assert any(node.target is torch.ops.aten.batch_norm.default for node in program.nodes)
    assert operators(exported(program)) == {"Relu": 1, "BatchNormalization": 1}


def test_split_is_one_node():
    assert operators(exported(captured(lambda x: x.split([1, 3], 1), 3, 4, 6))) == {"Split": 1}


def test_a_gate_of_itself_is_one_node():
    found = operators(exported(captured(lambda x: nn.AdaptiveAvgPool2d(1)(x * F.hardsigmoid(x)), 3, 4, 6, 8)))
    assert found == {"HardSwish": 1, "GlobalAveragePool": 1}


def test_unbatched_convolution():
    exported(capture_module(nn.Conv2d(4, 6, 3).eval(), (torch.randn(4, 8, 8),)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.bool])
def test_dtypes(dtype):
    if dtype.is_floating_point:
        program = captured(lambda x: (x * 2 + 1).relu().reshape(x.shape[0], -1), 3, 4, 5, dtype=dtype)
    elif dtype == torch.bool:
        program = captured(lambda x: ~x & x.any(1, keepdim=True), 3, 4, dtype=dtype)
    else:
        program = captured(lambda x: (x * 2 + 1).clamp(min=0).sum(1), 3, 4, dtype=dtype)
    model = exported(program, tolerance=1e-3 if dtype == torch.float16 else 1e-7)
    assert model.graph.inputs[0].dtype == ir.tensor_adapters.from_torch_dtype(dtype)


def test_weights_are_stored_once_in_the_layout_that_is_used():
    model = exported(captured(nn.Linear(64, 32), 3, 5, 64))
    assert operators(model) == {"MatMul": 1, "Add": 1}
    assert weight_bytes(model) == (64 * 32 + 32) * 4


def test_a_large_weight_that_is_used_twice_is_not_copied():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(600, 500)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.table(x) @ self.table.weight.T

    program = capture_module(Tied().eval(), (torch.randint(0, 600, (3, 4)),), ({0: BATCH},))
    assert weight_bytes(exported(program)) == 600 * 500 * 4


def test_equal_chains_become_one():
    found = operators(exported(captured(lambda x: (x.sin() + 1) * (x.sin() + 1), 3, 4)))
    assert found == Counter({"Sin": 1, "Add": 1, "Mul": 1})


def test_the_mean_of_a_scatter_is_refused():
    program = captured(lambda x: x.scatter_reduce(1, (x > 0).long(), x, "mean"), 3, 4)
    with pytest.raises(ExportError, match=r"scatter_reduce.two.*'scatter_reduce'.*not in ONNX"):
        to_onnx_model(program)


def test_an_operator_without_onnx_form_is_named():
    program = captured(lambda x: torch.linalg.eigvalsh(x @ x.transpose(1, 2)), 3, 4, 4)
    with pytest.raises(ExportError, match=r"aten\.\w*eig\w*"):
        to_onnx_model(program)


@pytest.mark.parametrize("opset", [17, 99])
def test_unknown_opsets_are_refused(opset):
    with pytest.raises(ExportError, match="choose one from 18"):
        to_onnx_model(captured(torch.relu, 3, 4), opset)
