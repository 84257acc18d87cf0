"""Calls in every form that the original takes reach the graph's inputs in order."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from tersor.capture import load
from tersor.errors import InputError
from tersor.export import to_onnx_model
from tersor.export.runtime import Session


class Difference(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return (left - right) * scale


LEFT, RIGHT = torch.ones(2, 3), torch.full((2, 3), 3.0)


@pytest.fixture(scope="module", name="program")
def _program():
    return load(Difference().eval(), (LEFT, RIGHT))


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((LEFT, RIGHT), {}),
        ((LEFT,), {"right": RIGHT}),
        ((), {"right": RIGHT, "left": LEFT}),
        ((), {"left": LEFT, "right": RIGHT}),
    ],
    ids=["positional", "mixed", "keywords turned round", "keywords"],
)
def test_forms_of_a_call(program, args, kwargs):
    torch.testing.assert_close(program(*args, **kwargs), torch.full((2, 3), -2.0), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((LEFT,), {}, "does not fit the model's signature"),
        ((LEFT,), {"left": RIGHT}, "does not fit the model's signature"),
        ((LEFT, RIGHT), {"scale": 2.0}, "argument structure"),
        ((LEFT,), {"wrong": RIGHT}, "does not fit the model's signature"),
        ((LEFT, 3.0), {}, re.escape("input 'right' is float, wanted a tensor")),
        ((LEFT, RIGHT[:1]), {}, "input 'right' has size 1 on axis 0, wanted 2"),
        ((LEFT, RIGHT.double()), {}, "float64"),
    ],
)
def test_wrong_calls(program, args, kwargs, message):
    with pytest.raises(InputError, match=message):
        program(*args, **kwargs)


def test_a_fixed_value_may_be_given_again():
    program = load(Difference().eval(), (LEFT, RIGHT, 2.0))
    torch.testing.assert_close(program(LEFT, RIGHT, 2.0), torch.full((2, 3), -4.0), rtol=0, atol=0)
    with pytest.raises(InputError, match="fixed at capture"):
        program(LEFT, RIGHT, 3.0)


@pytest.mark.parametrize(
    "value",
    [RIGHT.clone().requires_grad_(), torch.full((3, 2), 3.0).T, torch.full((1, 3), 3.0).expand(2, 3)],
    ids=["with a gradient", "transposed", "expanded"],
)
def test_tensors_that_numpy_does_not_take_as_they_are(program, value):
    (made,) = Session(to_onnx_model(program), 1).run((LEFT, value))
    torch.testing.assert_close(made, torch.full((2, 3), -2.0), rtol=0, atol=0)
