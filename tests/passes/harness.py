"""Captures small models, applies passes by name and compares with eager PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tersor.capture.torch import capture_module
from tersor.context import Context
from tersor.program import Program
from tersor.refresh import refresh
from tersor.rewrite_values import key
from tersor.spec import parse

BATCH = {0: torch.export.Dim("batch", min=2, max=64)}


class Compute(nn.Module):
    """A module that computes what a function of its input and its weights says."""

    def __init__(self, function: Callable[..., Any], **weights: Tensor) -> None:
        super().__init__()
        self.function = function
        self.names = list(weights)
        for name, weight in weights.items():
            self.register_buffer(name, weight)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *(getattr(self, name) for name in self.names))


def captured(model: nn.Module, x: Tensor, dynamic: bool = True) -> Program:
    """The model's program, with a dynamic batch."""
    return refresh(capture_module(model.eval(), (x,), (BATCH,) if dynamic else None))


def apply(program: Program, spec: str) -> Context:
    """Apply passes; each must be idempotent and deterministic, and must leave shapes that fit."""
    context = Context()
    for item in parse(spec):
        twin = refresh(program.clone())
        item(program, context)
        refresh(program)
        item(twin, Context())
        assert listing(twin) == listing(program), "two applications to equal programs differ"
        again = Context()
        item(program, again)
        assert not again.taken, f"{item} is not idempotent: {again.taken}"
        refresh(program)
    return context


def listing(program: Program) -> list[str]:
    """The program as text."""
    return [node.format_node() or "output" for node in program.nodes]


def operators(program: Program) -> Counter[str]:
    """How often each operator occurs."""
    return Counter(key(node) for node in program.nodes if node.op == "call_function")


def assert_equal(program: Program, model: nn.Module, x: Tensor, tolerance: float = 1e-5, batches: bool = True) -> None:
    """The program computes what the model does, also at another batch size."""
    inputs = [x, torch.cat([x, x.flip(0) * 0.5, x[:1]])] if batches else [x]
    for value in inputs:
        with torch.no_grad():
            torch.testing.assert_close(program(value), model(value), rtol=tolerance, atol=tolerance)


def reasons(context: Context) -> str:
    """All refusals."""
    return "; ".join(site.detail for site in context.skipped)
