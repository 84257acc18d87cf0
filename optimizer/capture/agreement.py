"""Comparing what was captured with the model itself, so that no step of a capture is wrong without notice."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from tersor.bindings import Binding, elsewhere, hiding, tried
from tersor.check import RUNTIME_FLOOR, failure, judge
from tersor.errors import CaptureError
from tersor.interface import Flat, Interface
from tersor.noise import rounding
from tersor.program import Program


def check_capture(program: Program, model: Callable[..., Any], example: Any = None) -> None:
    """Compare a program with the module that it was captured from.

    At the example, with every dynamic dimension at another size, and where masks hide something; where the module or
    the program does not take one of the latter two, nothing is compared there.

    Args:
        program: what was captured.
        model: called like the original.
        example: what it returned for the program's example inputs, if it was called before.

    Raises:
        CaptureError: the program does not run on its own example, or an output differs by more than rounding explains.
    """
    wanted: list[Flat] = []
    cases: list[Binding] = []
    for case in _cases(program):
        result = example if example is not None and not cases else _called(program.interface, model, case.inputs)
        if result is not None:
            wanted.append(_tensors(program.interface, result))
            cases.append(case)

    def noise(position: int) -> list[float]:
        inputs = cases[position].inputs
        return rounding(program, inputs, program.run(inputs), elsewhere=True)

    answers = (case.outputs_of(program) for case in cases)  # which are run in turn
    names = program.interface.output_names
    found = judge("the captured program", wanted, lambda *_: next(answers), cases, names, noise, RUNTIME_FLOOR)
    problem = failure(found)
    if problem:
        raise CaptureError(
            f"what torch.export captured is not the model: {problem}",
            "look for what depends on the values of its inputs, or report it with the model's name",
        )


def _cases(program: Program) -> list[Binding]:
    """The example, then what else the program takes."""
    other = elsewhere(program)
    more = [None if other is None else tried(program, *other), hiding(program)]
    return [Binding({}, program.inputs), *(case for case in more if case is not None)]


def _called(interface: Interface, model: Callable[..., Any], inputs: Flat) -> Any:
    """What the module returns; None where it takes no such inputs."""
    assert interface.parameters is not None
    leaves = [
        interface.fixed.get(place) if slot is None else inputs[slot] for place, slot in enumerate(interface.in_leaves)
    ]
    arguments = inspect.BoundArguments(interface.parameters, pytree.tree_unflatten(leaves, interface.in_spec))
    try:
        with torch.no_grad():
            return model(*arguments.args, **arguments.kwargs)
    except Exception:
        return None


def _tensors(interface: Interface, result: Any) -> Flat:
    """What stands for the program's outputs, in order.

    Raises:
        CaptureError: the result is built otherwise, or holds another constant than at capture.
    """
    leaves, captured = pytree.tree_leaves(result), len(interface.out_leaves)
    if len(leaves) != captured:
        raise CaptureError(
            f"the model returns {len(leaves)} values, and what torch.export captured returns {captured}",
            "let it return as many whatever its inputs, or capture the part that does",
        )
    found = {}
    for place, (leaf, slot) in enumerate(zip(leaves, interface.out_leaves, strict=True)):
        if slot is not None:
            found[slot] = leaf
        elif not _same(leaf, interface.out_fixed.get(place)):
            raise CaptureError(
                f"value {place} of the result is {leaf!r}, and was {interface.out_fixed.get(place)!r} at capture",
                "return it as a tensor, or leave it out",
            )
    return tuple(found[slot] for slot in range(len(found)))


def _same(value: Any, fixed: Any) -> bool:
    """Whether a value that is no tensor is the one that was captured; what cannot be compared is taken for it."""
    if isinstance(value, bool | int | float | str | bytes | type(None)):
        return bool(value == fixed or value != value)
    return not isinstance(value, torch.Tensor) or isinstance(fixed, torch.Tensor)
