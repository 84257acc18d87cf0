"""Reshapes, permutes, splits and slices have one spelling, also after another export."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tersor.capture.torch import capture_module
from tersor.context import Context
from tersor.refresh import refresh
from tests.passes.harness import BATCH, Compute, apply, assert_equal, captured, operators

CASES: dict[str, tuple[Any, dict[str, int]]] = {
    "views of views": (lambda x: x.flatten(1).view(-1, 2, 12).reshape(x.shape[0], 24), {"reshape": 1}),
    "back again": (lambda x: x.flatten(1).unflatten(1, (4, 6)).relu(), {"relu": 1}),
    "squeeze": (lambda x: x.unsqueeze(1).squeeze(1).relu(), {"relu": 1}),
    "unsqueezed view": (lambda x: x.reshape(-1, 24).unsqueeze(-1), {"reshape": 1}),
    "two transposes": (lambda x: x.transpose(1, 2).mT.relu(), {"relu": 1}),
    "transposed while joined": (
        lambda x: x.sin().view(x.shape[0], 2, 2, 6).cos().reshape(-1, 2, 6).mT.reshape(x.shape[0], 2, 6, 2).relu(),
        {"sin": 1, "reshape": 1, "cos": 1, "permute": 1, "relu": 1},
    ),
    "joined, moved, as before": (
        lambda x: x.sin().view(x.shape[0], 1, 4, 6).reshape(-1, 4, 6).mT.reshape(x.shape[0], 1, 6, 4).relu(),
        {"sin": 1, "permute": 1, "reshape": 1, "relu": 1},
    ),
    "divided behind a transpose": (
        lambda x: x.sin().reshape(-1, 2, 6).mT.reshape(x.shape[0], 2, 6, 2).relu(),
        {"sin": 1, "reshape": 1, "permute": 1, "relu": 1},
    ),
    "shuffled channels": (
        lambda x: x.view(x.shape[0], 2, 2, 6).transpose(1, 2).reshape(x.shape[0], 4, 6).relu(),
        {"reshape": 2, "permute": 1, "relu": 1},
    ),
    "merged permutes": (lambda x: x.permute(2, 0, 1).transpose(0, 1).relu(), {"permute": 1, "relu": 1}),
    "contiguous": (lambda x: x.transpose(1, 2).contiguous().view(x.shape[0], 24), {"permute": 1, "reshape": 1}),
    "expand": (lambda x: x.expand(-1, 4, 6).relu(), {"relu": 1}),
    "expand before add": (lambda x: x + x[:, :, :1].expand(-1, 4, 6), {"slice": 1, "add": 1}),
    "slice of all": (lambda x: x[:, 0:, :6].relu(), {"relu": 1}),
    "negative slice": (lambda x: x[:, -2:], {"slice": 1}),
    "select": (lambda x: x[:, -1], {"select": 1}),
    "unbind": (lambda x: torch.add(*x.unbind(1)[:2]), {"select": 2, "add": 1}),
    "chunk": (lambda x: torch.mul(*x.chunk(2, -1)), {"split_with_sizes": 1, "getitem": 2, "mul": 1}),
    "split into ones": (lambda x: x.split(1, 1)[2].squeeze(1), {"select": 1}),
    "split and cat": (lambda x: torch.cat(x.split(2, 1), 1).relu(), {"relu": 1}),
    "cat of cats": (lambda x: torch.cat([torch.cat([x, x], 1), x], 1), {"cat": 1}),
    "cat of one": (lambda x: torch.cat([x], 1).relu(), {"relu": 1}),
    "dropout": (lambda x: torch.dropout(x, 0.5, False).relu(), {"relu": 1}),
    "casts": (lambda x: x.float().to(torch.float32).type_as(x).relu(), {"relu": 1}),
    "empty pad": (lambda x: torch.nn.functional.pad(x, (0, 0, 0, 0)).relu(), {"relu": 1}),
    "size of an inner node": (lambda x: x.relu().view(x.relu().size(0), 24), {"relu": 1, "reshape": 1}),
}


def _x() -> Tensor:
    return torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CASES)
def test_one_spelling(name: str) -> None:
    function, wanted = CASES[name]
    model, x = Compute(function), _x()
    program = captured(model, x)
    apply(program, "common-subexpressions,canonicalize")
    assert operators(program) == wanted
    assert_equal(program, model, x, tolerance=0)


def test_stable_under_export() -> None:
    program = captured(Compute(lambda x: tuple(function(x) for function, _ in CASES.values())), _x())
    apply(program, "canonicalize,common-subexpressions")
    wanted = operators(program)
    again = refresh(capture_module(program.module(), tuple(program.inputs), (BATCH,)))
    apply(again, "canonicalize,common-subexpressions")
    assert operators(again) == wanted


def test_two_dynamic_axes_stay_dynamic() -> None:
    model, x = Compute(lambda x: x.transpose(1, 2).reshape(x.shape[0] * x.shape[2], 4).relu()), _x()
    dims = {0: torch.export.Dim("batch", min=2), 2: torch.export.Dim("length", min=2)}
    program = refresh(capture_module(model.eval(), (x,), (dims,)))
    apply(program, "canonicalize")
    for shape in ((2, 4, 6), (3, 4, 5)):
        value = torch.randn(shape)
        torch.testing.assert_close(program(value), model(value))


def test_copy_that_a_stride_depends_on_is_kept() -> None:
    model, x = (
        Compute(lambda x: torch.view_as_real(torch.view_as_complex(x.transpose(1, 2).contiguous()) * 1j)),
        _x()[:, :2],
    )
    program = captured(model, x)
    apply(program, "canonicalize")
    assert_equal(program, model, x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.clone(),
        lambda x: x.transpose(1, 2).transpose(1, 2),
        lambda x: (x.relu(), x.relu().reshape(x.shape)),
        lambda x: (lambda y: (y, y.clone(), y.permute(0, 1, 2)))(x.relu()),
    ],
)
def test_outputs_stay_apart_from_inputs_and_each_other(function: Any) -> None:
    model, x = Compute(function), _x()
    program = captured(model, x)
    apply(program, "canonicalize,remove-noops,common-subexpressions,dead-code")
    assert all(node.op == "call_function" for node in program.outputs)
    assert len(set(program.outputs)) == len(program.outputs)
    assert_equal(program, model, x, tolerance=0)


def test_expand_of_a_number_decides_the_dtype() -> None:
    model, x = Compute(lambda x: x + x.double().sum().expand(4, 6)), _x()
    program = captured(model, x)
    apply(program, "canonicalize")
    assert_equal(program, model, x)


def test_provenance_is_kept() -> None:
    class Outer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Compute(lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    program = captured(Outer(), _x())
    context = Context()
    from tersor.passes.canonicalize import Canonicalize

    Canonicalize()(program, context)
    (gelu,) = [node for node in program.nodes if node.op == "call_function"]
    assert "inner" in str(gelu.meta["nn_module_stack"])
    assert "test_canonicalize_layout" in gelu.meta["stack_trace"]
    assert any(site.origin.endswith("inner") and site.detail == "gelu" for site in context.taken)


def test_limit_leaves_a_site_alone() -> None:
    model, x = Compute(lambda x: torch.nn.functional.hardtanh(x * torch.sigmoid(x), 0, 6)), _x()
    program = captured(model, x)
    from tersor.passes.canonicalize import Canonicalize

    Canonicalize()(program, Context(limit=lambda site: site.detail != "silu"))
    assert operators(program) == {"sigmoid": 1, "mul": 1, "clamp": 1}
