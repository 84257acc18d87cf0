"""Operators that write in place leave the graph at capture, with what eager PyTorch computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersor.capture import functional as room
from tersor.capture import load
from tersor.capture.functional import make_functional
from tersor.errors import CaptureError
from tersor.models_zoo import catalog


class Of(nn.Module):
    """A function of one tensor as a model."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def residual(x: Tensor) -> Any:
    y = F.relu(x)
    z = y.add_(x)
    return y * 2 + z


def written_after_a_view(x: Tensor) -> Any:
    y = x * 2
    seen = y.view(-1)
    y.add_(1)
    return seen * 3


def written_through_a_view(x: Tensor) -> Any:
    y = x * 2
    y[0] += 1
    y.select(1, 0).mul_(5)
    return y


def written_behind_dropout(x: Tensor) -> Any:
    y = x * 2
    F.dropout(y, 0.5, training=False).add_(1)
    return y


def written_behind_contiguous(x: Tensor) -> Any:
    y = x * 2
    y.contiguous().add_(1)
    return y


def written_before_contiguous_is_read(x: Tensor) -> Any:
    y = x * 2
    same = y.contiguous()
    y.add_(1)
    return same


def written_behind_a_cast_to_its_own_type(x: Tensor) -> Any:
    y = x * 2
    y.to(torch.float32).add_(1)
    return y


def written_behind_a_cast(x: Tensor) -> Any:
    y = x * 2
    z = y.to(torch.float64).add_(1)
    return y, z


def written_behind_a_reshape(x: Tensor) -> Any:
    y = x * 2
    y.reshape(-1).add_(1)
    return y


def written_behind_a_chunk(x: Tensor) -> Any:
    y = x * 2
    left, right = y.chunk(2, 1)
    left.add_(right)
    return y


def written_twice(x: Tensor) -> Any:
    y = x + 1
    y.relu_()
    z = y * 3
    y.sub_(z)
    return y, z


def broadcast_written(x: Tensor) -> Any:
    y = x[:1] * 2
    z = y.expand(3, 4, 4)
    y.add_(1)
    return z + 0


def integers(x: Tensor) -> Any:
    y = (x > 0).long()
    y += 1
    y //= 2
    return y


def returned_as_it_came(x: Tensor) -> Any:
    return F.dropout(x, training=False), x.to(torch.float32), x.contiguous()


FUNCTIONS = [
    residual, written_after_a_view, written_through_a_view, written_behind_dropout, written_behind_contiguous,
    written_before_contiguous_is_read, written_behind_a_cast_to_its_own_type, written_behind_a_cast,
    written_behind_a_reshape, written_behind_a_chunk, written_twice, broadcast_written, integers, returned_as_it_came,
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_as_eager_pytorch(function: Callable[[Tensor], Any]) -> None:
    x = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    program = load(Of(function).eval(), (x,))
    torch.testing.assert_close(program(x.clone()), function(x.clone()), rtol=0, atol=0)
    for node in program.nodes:
        assert not getattr(getattr(node.target, "_schema", None), "is_mutable", False), node


def test_an_input_that_is_written_into_is_refused() -> None:
    with pytest.raises(CaptureError, match="writes into"):
        load(Of(lambda x: x.add_(1)).eval(), (torch.ones(2, 3),))


class Counts(nn.Module):
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1)
        return x * 2


def test_a_buffer_that_is_written_into_is_refused() -> None:
    with pytest.raises(CaptureError, match="writes into"):
        load(Counts().eval(), (torch.ones(2, 3),))


@pytest.mark.parametrize("name", ["zoo:digits-mobile", "zoo:digits-vit", "zoo:swin", "zoo:unet", "zoo:moe", "hf:llama"])
def test_the_same_values_as_torch_export_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = catalog.load(name)
    done: list[bool] = []

    def looked_at(graph: Any) -> bool:
        done.append(make_functional(graph))
        return done[-1]

    monkeypatch.setattr("tersor.capture.exported.make_functional", looked_at)
    quick = load(entry.model, entry.inputs, entry.dynamic)
    monkeypatch.setattr("tersor.capture.exported.make_functional", lambda graph: False)
    slow = load(entry.model, entry.inputs, entry.dynamic)
    assert done == [True]
    torch.testing.assert_close(quick.run(quick.inputs), slow.run(slow.inputs), rtol=0, atol=0)
    assert [str(size) for row in quick.sizes for size in row] == [str(size) for row in slow.sizes for size in row]


def test_what_is_not_known_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_RULES", {})
    x = torch.ones(2, 3, 4)
    program = load(Of(lambda x: (x * 1).reshape(2, 12).relu_()).eval(), (x,))
    torch.testing.assert_close(program(x), torch.ones(2, 12), rtol=0, atol=0)
