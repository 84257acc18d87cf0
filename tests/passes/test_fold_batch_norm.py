"""Batch norm joins the layer before or behind it, for every kind of layer; what is inexact is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.passes.harness import apply, assert_equal, captured, operators, reasons

LAYERS: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d, (4, 8)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, bias=False), nn.BatchNorm2d, (4, 8, 8)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 3), nn.BatchNorm3d, (4, 5, 5, 5)),
    "same padding": (lambda: nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d, (4, 8, 8)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d, (4, 8, 8)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d, (6, 8, 8)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), nn.BatchNorm1d, (4, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), nn.BatchNorm2d, (4, 5, 5)),
    "transposed grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d, (4, 5, 5)),
    "linear": (lambda: nn.Linear(4, 6), nn.BatchNorm1d, (4,)),
}


def _norm(kind: Any, channels: int, **options: Any) -> Any:
    norm = kind(channels, **options)
    norm.running_mean, norm.running_var = torch.randn(channels), torch.rand(channels) + 0.5
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


class Around(nn.Module):
    """A model written as a function of its parts."""

    def __init__(self, function: Any, **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleDict(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts.values())


@pytest.mark.parametrize("name", LAYERS)
def test_behind_a_layer(name: str) -> None:
    torch.manual_seed(0)
    layer, kind, shape = LAYERS[name]
    model, x = nn.Sequential(layer(), _norm(kind, 6), nn.ReLU()), torch.randn(2, *shape)
    program = captured(model, x)
    apply(program, "fold-batch-norm")
    assert operators(program)["getitem"] == operators(program)["_native_batch_norm_legit_no_training"] == 0
    assert sum(operators(program).values()) == 2
    assert_equal(program, model, x)


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv3d", "grouped", "depthwise", "linear"])
def test_ahead_of_a_layer(name: str) -> None:
    torch.manual_seed(0)
    layer, kind, shape = LAYERS[name]
    made = layer()
    if name == "conv1d":
        made.padding = (0,)
    model, x = nn.Sequential(_norm(kind, shape[0]), made), torch.randn(2, *shape)
    program = captured(model, x)
    apply(program, "canonicalize,fold-batch-norm")
    assert operators(program)["batch_norm"] == 0
    assert_equal(program, model, x)


@pytest.mark.parametrize("options", [{"affine": False}, {"eps": 0.1}])
def test_options_of_the_norm(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), _norm(nn.BatchNorm2d, 4, **options)), torch.randn(2, 3, 6, 6)
    program = captured(model, x)
    apply(program, "fold-batch-norm")
    assert operators(program) == {"conv2d": 1}
    assert_equal(program, model, x)


def test_linear_layer_on_flattened_rows() -> None:
    torch.manual_seed(0)
    model = Around(
        lambda x, linear, norm: norm(linear(x).flatten(0, 1)).view(x.shape[0], 5, 6),
        linear=nn.Linear(4, 6, bias=False),
        norm=_norm(nn.BatchNorm1d, 6),
    )
    x = torch.randn(2, 5, 4)
    program = captured(model, x)
    apply(program, "fold-batch-norm,canonicalize")
    assert operators(program) == {"linear": 1}
    assert_equal(program, model, x)


def test_linear_layer_behind_a_transpose() -> None:
    torch.manual_seed(0)
    model = Around(
        lambda x, linear, norm: norm(linear(x).transpose(1, 2)), linear=nn.Linear(4, 6), norm=_norm(nn.BatchNorm1d, 6)
    )
    x = torch.randn(2, 5, 4)
    program = captured(model, x)
    apply(program, "fold-batch-norm")
    assert operators(program) == {"linear": 1, "transpose": 1}
    assert_equal(program, model, x)


def test_two_norms_become_part_of_one_layer() -> None:
    torch.manual_seed(0)
    norms = [_norm(nn.BatchNorm2d, 4) for _ in range(2)]
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), *norms), torch.randn(2, 3, 6, 6)
    program = captured(model, x)
    apply(program, "fold-batch-norm")
    assert operators(program) == {"conv2d": 1}
    assert_equal(program, model, x)


def test_norm_of_the_wrong_axis() -> None:
    """Batch norm over the tokens of a linear layer's result scales no output feature."""
    model, x = nn.Sequential(nn.Linear(4, 6), _norm(nn.BatchNorm1d, 5)), torch.randn(2, 5, 4)
    program = captured(model, x)
    assert "one number per output channel" in reasons(apply(program, "fold-batch-norm"))
    assert_equal(program, model, x)


def test_padding_stands_between() -> None:
    model = nn.Sequential(_norm(nn.BatchNorm2d, 3), nn.Conv2d(3, 4, 3, padding=1))
    x = torch.randn(2, 3, 6, 6)
    program = captured(model, x)
    assert "pads with zeros" in reasons(apply(program, "fold-batch-norm"))
    assert_equal(program, model, x)


def test_layer_read_twice() -> None:
    model = Around(
        lambda x, conv, norm: norm(conv(x)) + conv(x).relu(), conv=nn.Conv2d(3, 4, 3), norm=_norm(nn.BatchNorm2d, 4)
    )
    x = torch.randn(2, 3, 6, 6)
    program = captured(model, x)
    context = apply(program, "common-subexpressions,fold-batch-norm")
    assert "is read by 2 nodes" in reasons(context)
    assert_equal(program, model, x)


def test_weight_shared_by_two_layers() -> None:
    model = Around(
        lambda x, conv, norm: norm(conv(x)) + conv(x * 2), conv=nn.Conv2d(3, 4, 3), norm=_norm(nn.BatchNorm2d, 4)
    )
    x = torch.randn(2, 3, 6, 6)
    program = captured(model, x)
    assert "is read by" in reasons(apply(program, "fold-batch-norm"))
    assert_equal(program, model, x)


def test_half_precision_that_would_overflow() -> None:
    norm = _norm(nn.BatchNorm2d, 4)
    nn.init.constant_(norm.weight, 6e4)
    conv = nn.Conv2d(3, 4, 3)
    nn.init.constant_(conv.weight, 10.0)
    model, x = nn.Sequential(conv, norm).half(), torch.zeros(2, 3, 6, 6).half()
    program = captured(model, x)
    assert "overflow" in reasons(apply(program, "fold-batch-norm"))


def test_original_weights_are_not_written() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), _norm(nn.BatchNorm2d, 4)), torch.randn(2, 3, 6, 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    apply(captured(model, x), "fold-batch-norm")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
