"""Capture of PyTorch models: what is accepted, and what is refused with a remedy."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from tersor.capture import load
from tersor.errors import CaptureError, InputError, UsageError


@dataclasses.dataclass
class Result:
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...]


class Structured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, batch: dict[str, torch.Tensor], *, flag: bool = True) -> Result:
        with torch.no_grad():
            hidden = self.linear(batch["a"]) + batch["b"]
        return Result(hidden.sum(-1), (hidden, batch["a"]))


def test_dicts_in_dataclasses_out() -> None:
    model = Structured().eval()
    batch = {"a": torch.randn(2, 4), "b": torch.randn(2, 4)}
    captured = load(model, {"batch": batch, "flag": True})
    wanted, got = model(batch), captured(batch, flag=True)
    assert isinstance(got, Result)
    torch.testing.assert_close(got.logits, wanted.logits)
    torch.testing.assert_close(got.hidden[1], batch["a"])


def test_no_wrapper_of_no_grad_remains() -> None:
    captured = load(Structured().eval(), {"batch": {"a": torch.randn(2, 4), "b": torch.randn(2, 4)}})
    assert all("wrap_with" not in str(node.target) for node in captured.nodes)


def test_exported_programs_and_graph_modules() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    x = torch.randn(3, 4)
    exported = torch.export.export(model, (x,))
    for captured in (load(exported), load(torch.fx.symbolic_trace(model), (x,))):
        torch.testing.assert_close(captured(x), model(x))


class Odd(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> Any:
        if self.kind == "random":
            return x + torch.rand_like(x)
        if self.kind == "stateful":
            self.count.add_(1)  # type: ignore[operator]
            return x * 2
        if self.kind == "branch":
            return x * 2 if x.sum() > 0 else x
        if self.kind == "raises":
            raise ValueError("no such mode")
        return 3


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("random", UsageError, "different results on two equal calls"),
        ("stateful", CaptureError, "writes into 'count'"),
        ("branch", CaptureError, "torch.export cannot capture"),
        ("raises", InputError, "no such mode"),
        ("constant", CaptureError, "returns no tensor"),
    ],
)
def test_models_that_cannot_be_captured(kind: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        load(Odd(kind).eval(), (torch.randn(3),))
    assert "\n" not in str(caught.value)


def test_training_mode_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model\.eval"):
        load(nn.Linear(2, 2), (torch.randn(1, 2),))


@pytest.mark.parametrize("source", [3, object(), {"a": 1}])
def test_other_objects_are_refused(source: object) -> None:
    with pytest.raises(UsageError, match="cannot capture"):
        load(source)


def test_a_module_needs_inputs() -> None:
    with pytest.raises(InputError, match="no example inputs"):
        load(nn.Linear(2, 2).eval())


class Buffered(nn.Module):
    """Reads as much of a buffer as the input is long."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = nn.Buffer(torch.ones(8, 8).tril())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ x.mT).masked_fill(self.kept[: x.shape[1], : x.shape[1]] == 0, 0.0)


@pytest.mark.parametrize(
    ("most", "reason", "remedy"), [(8, "!= 8", "another range"), (16, "<= 8", "give length = Dim('length', max=8)")]
)
def test_a_range_that_does_not_fit_is_said(most: int, reason: str, remedy: str) -> None:
    with pytest.raises(CaptureError, match=reason) as caught:
        load(Buffered().eval(), (torch.randn(2, 3, 4),), ({1: torch.export.Dim("length", max=most)},))
    assert remedy in str(caught.value) and "\n" not in str(caught.value)
