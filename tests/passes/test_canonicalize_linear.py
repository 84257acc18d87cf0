"""Matrix products with constant weights become linear layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.passes.harness import Compute, apply, assert_equal, captured, operators, reasons

CASES: dict[str, tuple[Any, dict[str, int]]] = {
    "matmul": (lambda x, w, b: x @ w, {"linear": 1}),
    "with bias": (lambda x, w, b: x @ w + b, {"linear": 1}),
    "bias first": (lambda x, w, b: b + torch.matmul(x, w), {"linear": 1}),
    "bias of shape 1 by n": (lambda x, w, b: x @ w + b[None, None], {"linear": 1}),
    "transposed": (lambda x, w, b: x @ w.t().contiguous().t() + b, {"linear": 1}),
    "addmm": (lambda x, w, b: torch.addmm(b, x.reshape(-1, 6), w).view(x.shape[0], 4, 5), {"linear": 1}),
    "mm": (lambda x, w, b: torch.mm(x.reshape(-1, 6), w), {"linear": 1, "reshape": 1}),
    "einsum": (lambda x, w, b: torch.einsum("btk,kn->btn", x, w) + b, {"linear": 1}),
    "einsum transposed": (lambda x, w, b: torch.einsum("btk,nk->btn", x, w.t()), {"linear": 1}),
}


def _x(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CASES)
def test_linear(name: str) -> None:
    function, wanted = CASES[name]
    model, x = Compute(function, w=_x(6, 5), b=_x(5)), _x(2, 4, 6)
    program = captured(model, x)
    apply(program, "fold-constants,canonicalize")
    assert operators(program) == wanted
    assert_equal(program, model, x)


def test_product_of_two_inputs_is_no_linear_layer() -> None:
    program = captured(Compute(lambda x: x @ x.transpose(1, 2)), _x(2, 4, 6))
    context = apply(program, "canonicalize")
    assert operators(program) == {"permute": 1, "matmul": 1}
    assert not context.skipped


def test_scales_of_both_factors_are_one() -> None:
    model, x = Compute(lambda x: (x * 0.5) @ (x.transpose(1, 2) * 0.25)), _x(2, 4, 6)
    program = captured(model, x)
    apply(program, "canonicalize")
    assert operators(program) == {"mul": 1, "permute": 1, "matmul": 1}
    assert_equal(program, model, x)


@pytest.mark.parametrize("function", [lambda x: (x * 0.5) @ x.mT, lambda x: ((y := x * 0.5) @ (x.mT * 0.25)) + y.sum()])
def test_a_scale_that_others_read_stays(function: Any) -> None:
    program = captured(Compute(function), _x(2, 4, 6))
    before = operators(program)["mul"]
    apply(program, "canonicalize")
    assert operators(program)["mul"] == before


def test_tied_weight_is_not_stored_twice() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        return torch.nn.functional.embedding(x.argmax(-1), w) @ w

    model, x = Compute(function, w=_x(6, 6)), _x(2, 4, 6)
    program = captured(model, x)
    context = apply(program, "canonicalize")
    assert "a transposed copy would duplicate it" in reasons(context)
    assert program.parameter_bytes() == 6 * 6 * 4
    assert_equal(program, model, x)


def test_tied_weight_read_through_a_transpose_is_shared() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        return torch.nn.functional.embedding(x.argmax(-1), w) @ w.t()

    model, x = Compute(function, w=_x(6, 6)), _x(2, 4, 6)
    program = captured(model, x)
    apply(program, "fold-constants{limit_bytes=0},canonicalize")
    assert operators(program)["linear"] == 1
    assert program.parameter_bytes() == 6 * 6 * 4
    assert_equal(program, model, x)


def test_weight_of_two_products_is_transposed_once() -> None:
    model, x = Compute(lambda x, w: (x @ w).relu() @ w, w=_x(6, 6)), _x(2, 4, 6)
    program = captured(model, x)
    apply(program, "canonicalize")
    assert operators(program)["linear"] == 2
    assert program.parameter_bytes() == 6 * 6 * 4
    assert_equal(program, model, x)


def test_bias_of_another_shape_stays_outside() -> None:
    model, x = Compute(lambda x, w, b: x @ w + b, w=_x(6, 5), b=_x(4, 5)), _x(2, 4, 6)
    program = captured(model, x)
    assert "one number per output feature" in reasons(apply(program, "canonicalize"))
    assert operators(program) == {"linear": 1, "add": 1}
    assert_equal(program, model, x)


def test_integer_product_is_left_alone() -> None:
    model = Compute(lambda x, w: x @ w, w=torch.arange(6).reshape(3, 2))
    x = torch.arange(6).reshape(2, 3)
    program = captured(model, x, dynamic=False)
    apply(program, "canonicalize")
    assert operators(program) == {"matmul": 1}
