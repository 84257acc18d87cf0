"""`Program`: calls, shape checks, clones; refresh notices what no longer fits."""

from __future__ import annotations

from typing import Any

import pytest
import sympy
import torch

from tersor.bindings import bindings, resized
from tersor.capture import load
from tersor.errors import InputError, RewriteError
from tersor.program import Dimension, Program, describe
from tersor.refresh import refresh

aten = torch.ops.aten


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, scale: float = 2.0, bias: torch.Tensor | None = None) -> dict[str, Any]:
        y = self.linear(x) * scale
        return {"y": y if bias is None else y + bias, "extra": [None, 7]}


@pytest.fixture
def program() -> Program:
    batch = torch.export.Dim("batch", min=1, max=64)
    return load(Net().eval(), {"x": torch.randn(5, 4), "bias": torch.randn(3)}, {"x": {0: batch}, "bias": None})


def test_positional_and_keyword_calls_agree_with_eager(program: Program) -> None:
    torch.manual_seed(0)
    model = Net().eval()
    captured = load(model, (torch.randn(5, 4), 3.0, torch.randn(3)))
    x, bias = torch.randn(5, 4), torch.randn(3)
    wanted = model(x, 3.0, bias)
    for got in (captured(x, 3.0, bias), captured(x=x, scale=3.0, bias=bias)):
        assert got["extra"] == [None, 7]
        torch.testing.assert_close(got["y"], wanted["y"])


def test_dynamic_sizes_keep_their_name_and_bounds(program: Program) -> None:
    (dimension,) = program.dimensions.values()
    assert (dimension.name, dimension.minimum, dimension.maximum) == ("batch", 1, 64)
    assert program(x=torch.randn(9, 4), bias=torch.randn(3))["y"].shape == (9, 3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"x": torch.randn(2, 5), "bias": torch.randn(3)}, "size 5 on axis 1, wanted 4"),
        ({"x": torch.randn(2, 4).double(), "bias": torch.randn(3)}, "float64"),
        ({"x": torch.randn(2, 4, 1), "bias": torch.randn(3)}, r"wanted torch.float32 of shape \[batch, 4\]"),
        ({"x": torch.randn(2, 4)}, "argument structure"),
        ({"x": torch.randn(2, 4), "bias": 3.0}, "wanted a tensor"),
        ({"y": torch.randn(2, 4)}, "signature"),
    ],
)
def test_calls_that_do_not_fit_are_refused(program: Program, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        program(**kwargs)


def test_a_value_fixed_at_capture_cannot_change() -> None:
    captured = load(Net().eval(), (torch.randn(5, 4), 3.0))
    with pytest.raises(InputError, match="fixed at capture"):
        captured(torch.randn(5, 4), 4.0)


def test_sizes_that_are_multiples_are_solved_for() -> None:
    program = load(Net().eval(), {"x": torch.randn(5, 4)})
    s = sympy.Symbol("s0", integer=True, positive=True)
    program.sizes = ((32 * s, 4),)
    program.dimensions = {"s0": Dimension("height", "s0", 2, step=32)}
    assert program.check_inputs((torch.randn(96, 4),)) == {"s0": 3}
    with pytest.raises(InputError, match=r"wanted 32\*s0 for an integer s0"):
        program.check_inputs((torch.randn(95, 4),))
    assert describe(program.sizes[0], program.dimensions) == "[height, 4]"


def test_a_clone_can_be_edited_alone(program: Program) -> None:
    clone = program.clone()
    node = next(n for n in clone.nodes if n.target is aten.mul.Tensor)
    node.target = aten.add.Tensor
    refresh(clone)
    x = {"x": torch.randn(5, 4), "bias": torch.randn(3)}
    assert not torch.equal(clone(**x)["y"], program(**x)["y"])
    assert clone.weights["linear.weight"] is program.weights["linear.weight"]


def test_refresh_names_the_node_that_does_not_fit(program: Program) -> None:
    node = next(n for n in program.nodes if n.target is aten.linear.default)
    node.target, node.args = aten.view.default, (node.args[0], [3, 7])
    with pytest.raises(RewriteError, match=f"node {node.name} "):
        refresh(program)


def test_refresh_notices_a_dimension_made_static(program: Program) -> None:
    node = next(n for n in program.nodes if n.target is aten.linear.default)
    with program.graph.inserting_after(node):
        fixed = program.graph.call_function(aten.view.default, (node, [5, 3]))
    node.replace_all_uses_with(fixed, delete_user_cb=lambda user: user is not fixed)
    with pytest.raises(RewriteError, match="'batch' became the constant 5"):
        refresh(program)


def test_refresh_wants_every_weight(program: Program) -> None:
    program.weights.pop("linear.bias")
    with pytest.raises(RewriteError, match=r"linear\.bias"):
        refresh(program)


def test_bindings_vary_every_dimension_within_its_bounds() -> None:
    batch = torch.export.Dim("batch", min=4, max=6)
    program = load(Net().eval(), {"x": torch.randn(5, 4)}, {"x": {0: batch}})
    assert [case.sizes["batch"] for case in bindings(program)] == [5, 6, 4]


def test_resized_inputs_only_repeat_values(program: Program) -> None:
    (symbol,) = program.dimensions
    (x, _) = resized(program, {symbol: 8})
    assert x.shape == (8, 4)
    torch.testing.assert_close(x[5:], program.inputs[0][:3])


def test_shapes_that_were_checked_are_not_solved_for_again(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    first = program.check_inputs((torch.randn(7, 4), torch.randn(3)))
    monkeypatch.setattr(Program, "_solved", None)
    assert program.check_inputs((torch.zeros(7, 4), torch.zeros(3))) == first
    assert list(first.values()) == [7]


def test_a_wrong_shape_is_refused_each_time(program: Program) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match="size 5 on axis 1"):
            program.check_inputs((torch.randn(4, 5), torch.randn(3)))
