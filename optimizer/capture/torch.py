"""Capture of PyTorch models: modules, exported programs, graph modules."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from tersor.capture.agreement import check_capture
from tersor.capture.exported import from_exported
from tersor.capture.grow import grown
from tersor.capture.signature import tables_made_once
from tersor.errors import CaptureError, InputError, UsageError, first_line
from tersor.interface import bind
from tersor.program import Program


def capture_module(model: torch.nn.Module, inputs: Any, dynamic: Any = None) -> Program:
    """Capture a module in evaluation mode.

    Args:
        model: any module that torch.export takes.
        inputs: a tuple of positional arguments, a dict of keyword arguments, or one tensor.
        dynamic: dynamic dimensions as `torch.export.export` takes them: by parameter name, or in order.

    Raises:
        UsageError: the model is in training mode, or is not deterministic.
        CaptureError: torch.export refuses, and the message holds its first line; or what it captured is not the model.
    """
    _refuse_training(model)
    args, kwargs = split_inputs(inputs)
    parameters = inspect.signature(model.forward)
    bound = bind(parameters, args, kwargs)
    arguments = parameters.bind(*args, **kwargs)
    result = _run_twice(model, arguments.args, arguments.kwargs)
    _register_dataclasses(bound, result)
    leaves, in_spec = pytree.tree_flatten(bound)
    larger = _larger(model, arguments, leaves, in_spec, dynamic)
    exported = _export(model, arguments.args, arguments.kwargs, dynamic)
    names = dimension_names(dynamic, bound)
    program = from_exported(exported, larger or leaves, names, parameters=parameters, in_spec=in_spec)
    program.given = program.interface.flatten(args, kwargs) if larger else None
    check_capture(program, model, None if larger else result)
    return program


def _larger(model: Any, arguments: inspect.BoundArguments, leaves: list[Any], spec: Any, dynamic: Any) -> Any:
    """Larger examples, put into the arguments, where torch.export would fix a dynamic axis of size 1; else None."""
    keys = {place: _key(item) for place, item in _dynamic_places(dynamic, arguments.arguments)}
    larger = grown(leaves, {place: key for place, key in keys.items() if key is not None})
    if larger is None:
        return None
    before = dict(arguments.arguments)
    arguments.arguments.update(pytree.tree_unflatten(larger, spec))
    try:
        with torch.no_grad():
            model(*arguments.args, **arguments.kwargs)
    except Exception:  # the model takes no other size; torch.export says why
        arguments.arguments.update(before)
        return None
    return larger


def _key(dimension: Any) -> Any:
    """What equal sizes have in common: the dimension's name; a number is no dimension, a derived one cannot grow."""
    named = isinstance(dimension, type) or hasattr(dimension, "__name__")
    if named and not hasattr(dimension, "root"):
        return dimension.__name__
    return None


def capture_exported(exported: ExportedProgram) -> Program:
    """Capture an exported program with the example inputs it carries."""
    if exported.example_inputs is None:
        raise InputError("the exported program carries no example inputs", "export it with torch.export.export")
    args, kwargs = exported.example_inputs
    names = list(kwargs)
    parameters = _signature_of(exported, len(args), names)
    bound = bind(parameters, args, kwargs)
    leaves, in_spec = pytree.tree_flatten(bound)
    program = from_exported(exported, leaves, parameters=parameters, in_spec=in_spec)
    check_capture(program, exported.module(check_guards=False))
    return program


def _signature_of(exported: ExportedProgram, positional: int, keywords: Sequence[str]) -> inspect.Signature:
    kind = inspect.Parameter
    known = getattr(exported.module(check_guards=False), "forward", None)
    try:
        signature = inspect.signature(known) if known is not None else None
        if signature is not None:
            signature.bind(*range(positional), **dict.fromkeys(keywords))
            return signature
    except (TypeError, ValueError):
        pass
    parameters = [kind(f"input_{i}", kind.POSITIONAL_OR_KEYWORD) for i in range(positional)]
    return inspect.Signature(parameters + [kind(name, kind.KEYWORD_ONLY) for name in keywords])


def split_inputs(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as positional and keyword arguments.

    >>> split_inputs({"x": 1})
    ((), {'x': 1})
    """
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    if not isinstance(inputs, Sequence):
        raise InputError(f"example inputs are {type(inputs).__name__}", "give a tuple or a dict of tensors")
    return tuple(inputs), {}


def _refuse_training(model: torch.nn.Module) -> None:
    if model.training and not isinstance(model, fx.GraphModule):
        raise UsageError("the model is in training mode", "call model.eval() first")


def _run_twice(model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    try:
        with torch.no_grad():
            first, second = model(*args, **kwargs), model(*args, **kwargs)
    except Exception as error:
        raise InputError(
            f"the model raises {type(error).__name__} on the example inputs: {first_line(error)[:300]}",
            "give inputs that model(*inputs) accepts",
        ) from error
    for a, b in zip(pytree.tree_leaves(first), pytree.tree_leaves(second), strict=False):
        if isinstance(a, torch.Tensor) and not torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)):
            raise UsageError(
                "the model returns different results on two equal calls",
                "remove its randomness; a rewrite of it cannot be verified",
            )
    return first


def _register_dataclasses(*trees: Any) -> None:
    for leaf in pytree.tree_leaves(trees):
        if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            torch.export.register_dataclass(type(leaf))
            _register_dataclasses(*(getattr(leaf, item.name) for item in dataclasses.fields(leaf)))


def _export(model: torch.nn.Module, args: Any, kwargs: Any, dynamic: Any) -> ExportedProgram:
    try:
        with torch.no_grad(), _without_graph_dumps(), tables_made_once():
            return torch.export.export(model, tuple(args), dict(kwargs), dynamic_shapes=dynamic, strict=False)
    except Exception as error:
        reason, remedy = _of_dimensions(str(error)) or (
            first_line(error)[:300], "capture a sub-module, or give other example inputs or dynamic dimensions",
        )  # fmt: skip
        raise CaptureError(f"torch.export cannot capture the model: {reason}", remedy) from error


def _of_dimensions(text: str) -> tuple[str, str] | None:
    """What torch.export found about dynamic dimensions, and what it suggests; None where it complains of other things.

    >>> _of_dimensions("Constraints violated (n)!\\n  - Not all values of n <= 9 satisfy n != 9.\\n")[0]
    'not all values of n <= 9 satisfy n != 9'
    """
    lines = [line.strip() for line in text.splitlines()]
    found = [line.removeprefix("- ").rstrip(".") for line in lines if line.startswith("- ")]
    if not found or not lines[0].startswith("Constraints violated"):
        return None
    reason = "; ".join(f"{line[0].lower()}{line[1:]}" for line in found[:2])[:400]
    where = lines.index("Suggested fixes:") + 1 if "Suggested fixes:" in lines else len(lines)
    fixes = [line for line in lines[where:] if " = " in line]
    return reason, f"give {', '.join(fixes)}" if fixes else "give these dimensions another range"


@contextlib.contextmanager
def _without_graph_dumps() -> Iterator[None]:
    """torch.export prints the whole graph where it gives up; the error says what the user can act on."""
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def dimension_names(dynamic: Any, bound: Mapping[str, Any]) -> dict[tuple[int, int], str]:
    """Names of dynamic axes by (leaf position, axis), from a torch.export dynamic-shapes specification."""
    named = ((place, getattr(item, "__name__", None)) for place, item in _dynamic_places(dynamic, bound))
    return {place: name for place, name in named if name}


def _dynamic_places(dynamic: Any, bound: Mapping[str, Any]) -> list[tuple[tuple[int, int], Any]]:
    """What the specification says of each axis that it names, by (leaf position, axis)."""
    specification = dynamic
    if isinstance(dynamic, tuple | list):
        specification = dict(zip(bound, dynamic, strict=False))
    places: list[tuple[tuple[int, int], Any]] = []
    position = 0
    for key, value in bound.items():
        position = _walk(value, (specification or {}).get(key), position, places)
    return places


def _walk(value: Any, specification: Any, position: int, places: list[tuple[tuple[int, int], Any]]) -> int:
    if isinstance(value, torch.Tensor) or not isinstance(value, dict | list | tuple):
        items = specification.items() if isinstance(specification, Mapping) else enumerate(specification or ())
        places += [((position, axis), dimension) for axis, dimension in items]
        return position + len(pytree.tree_leaves(value))
    keyed = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in keyed:
        inner = specification.get(key) if isinstance(specification, Mapping) else None
        if isinstance(specification, list | tuple) and isinstance(key, int) and key < len(specification):
            inner = specification[key]
        position = _walk(child, inner, position, places)
    return position
