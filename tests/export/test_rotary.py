"""Rotary embeddings are one node from opset 23 on, where both halves are turned by the same angles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from tersor.capture import load
from tersor.export import save_onnx
from tersor.export.runtime import Session
from tersor.models_zoo.catalog import load as entry_of
from tersor.refresh import refresh

DYNAMIC = ({0: torch.export.Dim("batch", max=64), 2: torch.export.Dim("tokens", max=64)},)


def angles(x: Tensor, repeat: float = 1.0) -> Tensor:
    """[tokens, width]: those of the first half, and times ``repeat`` those of the second."""
    frequency = 10.0 ** -torch.arange(x.shape[-1] // 2)
    half = torch.arange(x.shape[2])[:, None] * frequency
    return torch.cat((half, half * repeat), -1)


def rotated(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), -1)


def whole(x: Tensor) -> Tensor:
    return x * angles(x).cos() + rotated(x) * angles(x).sin()


def scaled(x: Tensor) -> Tensor:
    return angles(x).sin()[None, None] * 1.5 * rotated(x) + angles(x).cos()[None, None] * 1.5 * x


def by_halves(x: Tensor) -> Tensor:
    cos, sin = (table.chunk(2, -1)[0][None] for table in (angles(x).cos(), angles(x).sin()))
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def partial(x: Tensor) -> Tensor:
    return torch.cat((whole(x[..., :4]), x[..., 4:]), -1)


def in_pairs(x: Tensor) -> Tensor:
    return torch.stack((-x[..., 1::2], x[..., ::2]), -1).reshape(x.shape)


def repeated(x: Tensor) -> Tensor:
    """[tokens, width]: each angle twice, side by side."""
    return torch.repeat_interleave(angles(x)[:, : x.shape[-1] // 2], 2, -1)


def neighbours(x: Tensor) -> Tensor:
    return x * repeated(x).cos() + in_pairs(x) * repeated(x).sin()


def neighbours_stacked(x: Tensor) -> Tensor:
    half = angles(x)[:, : x.shape[-1] // 2]
    twice = torch.stack((half, half), -1).flatten(-2)[None]
    return in_pairs(x) * twice.sin() + x * twice.cos()


def pair_by_pair(x: Tensor) -> Tensor:
    half = angles(x)[:, : x.shape[-1] // 2]
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = (first * half.cos() - second * half.sin(), second * half.cos() + first * half.sin())
    return torch.stack(turned, -1).flatten(-2)


def of_complex_numbers(x: Tensor) -> Tensor:
    half = angles(x)[:, : x.shape[-1] // 2]
    numbers = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(numbers * torch.polar(torch.ones_like(half), half)).flatten(-2)


def halves_by_angles_of_neighbours(x: Tensor) -> Tensor:
    return x * repeated(x).cos() + rotated(x) * repeated(x).sin()


def neighbours_by_angles_of_halves(x: Tensor) -> Tensor:
    return x * angles(x).cos() + in_pairs(x) * angles(x).sin()


def neighbours_swapped(x: Tensor) -> Tensor:
    swapped = torch.stack((-x[..., ::2], x[..., 1::2]), -1).reshape(x.shape)
    return x * repeated(x).cos() + swapped * repeated(x).sin()


def side_by_side(x: Tensor) -> Tensor:
    half = angles(x)[:, : x.shape[-1] // 2]
    first, second = x.unflatten(-1, (2, -1)).unbind(-2)
    turned = (first * half.cos() - second * half.sin(), second * half.cos() + first * half.sin())
    return torch.stack(turned, -1).flatten(-2)


def other_angles(x: Tensor) -> Tensor:
    return x * angles(x, 2.0).cos() + rotated(x) * angles(x, 2.0).sin()


def turned_back(x: Tensor) -> Tensor:
    return x * angles(x).cos() + -rotated(x) * angles(x).sin()


def halves_apart(x: Tensor) -> Tensor:
    first, second = x[..., :4], x[..., 4:]
    return x * angles(x).cos() + torch.cat((-first, second), -1) * angles(x).sin()


def interleaved_heads(x: Tensor) -> Tensor:
    heads = torch.arange(x.shape[1])[:, None, None] + 1
    return x * (angles(x) * heads).cos() + rotated(x) * (angles(x) * heads).sin()


class Turned(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def check(function: Callable[[Tensor], Tensor], path: Path, opset: int, dynamic: bool) -> list[str]:
    """Operators of the file, whose results are those of the function, also after reading it again."""
    x = torch.randn(2, 3, 5, 8)
    program = refresh(load(Turned(function).eval(), (x,), DYNAMIC if dynamic else None))
    made = save_onnx(program, path, opset)
    again = load(made)
    for value in (x, torch.randn(4, 3, 9, 8)) if dynamic else (x,):
        torch.testing.assert_close(Session(made, 1).run((value,))[0], function(value), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(again.run((value,))[0], function(value), rtol=1e-5, atol=1e-5)
    return [node.op_type for node in onnx.load(made).graph.node]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("function", [whole, scaled, by_halves, partial])
def test_one_node(function: Callable[[Tensor], Tensor], dynamic: bool, tmp_path: Path) -> None:
    operators = check(function, tmp_path / "a.onnx", 23, dynamic)
    assert operators.count("RotaryEmbedding") == 1 and "Neg" not in operators and "Sub" not in operators


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("function", [neighbours, neighbours_stacked, pair_by_pair, of_complex_numbers])
def test_one_node_turns_neighbours(function: Callable[[Tensor], Tensor], dynamic: bool, tmp_path: Path) -> None:
    operators = check(function, tmp_path / "a.onnx", 23, dynamic)
    assert operators.count("RotaryEmbedding") == 1 and "Neg" not in operators and "Sub" not in operators


DIFFERENT = [
    other_angles, turned_back, halves_apart, interleaved_heads, halves_by_angles_of_neighbours,
    neighbours_by_angles_of_halves, neighbours_swapped, side_by_side,
]  # fmt: skip


@pytest.mark.parametrize("function", DIFFERENT)
def test_what_is_something_else_stays(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    assert "RotaryEmbedding" not in check(function, tmp_path / "a.onnx", 23, True)


def test_older_opsets_have_no_such_node(tmp_path: Path) -> None:
    assert "RotaryEmbedding" not in check(whole, tmp_path / "a.onnx", 22, True)


@pytest.mark.parametrize("name", ["zoo:decoder", "hf:llama", "hf:cohere"])
def test_queries_and_keys_of_decoders(name: str, tmp_path: Path) -> None:
    entry = entry_of(name)
    program = refresh(load(entry.model, entry.inputs, entry.dynamic))
    made = save_onnx(program, tmp_path / "a.onnx", 23)
    graph = onnx.load(made).graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("RotaryEmbedding") == 4 and operators.count("Cos") == 1
    assert not any(dim.dim_param.isdecimal() for value in graph.value_info for dim in value.type.tensor_type.shape.dim)
    for got, wanted in zip(Session(made, 1).run(program.inputs), program.run(program.inputs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
