"""Models that cannot be captured whole: find the largest sub-modules that can."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from tersor.capture.torch import capture_module, split_inputs
from tersor.errors import TersorError
from tersor.program import Program

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """A sub-module that was captured.

    Attributes:
        path: its name in the model.
        program: what it computes, at the inputs it got in the first call.
    """

    path: str
    program: Program


def capture_parts(model: torch.nn.Module, inputs: Any, smallest: int = 3) -> tuple[list[Part], dict[str, str]]:
    """The largest sub-modules that can be exported, and why larger ones cannot.

    Args:
        model: in evaluation mode.
        inputs: example inputs.
        smallest: modules with fewer sub-modules than this are not worth a capture of their own.
    """
    args, kwargs = split_inputs(inputs)
    with _recorded(model) as calls, torch.no_grad():
        model(*args, **kwargs)
    parts: list[Part] = []
    refused: dict[str, str] = {}
    _descend(model, "", calls, smallest, parts, refused)
    return parts, refused


@contextmanager
def _recorded(model: torch.nn.Module) -> Iterator[dict[str, Call]]:
    """The arguments of the first call of each sub-module while the block runs."""
    calls: dict[str, Call] = {}

    def hook(path: str) -> Callable[..., None]:
        def record(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.setdefault(path, (args, kwargs))

        return record

    handles = [
        module.register_forward_pre_hook(hook(path), with_kwargs=True) for path, module in model.named_modules() if path
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _descend(
    module: torch.nn.Module,
    path: str,
    calls: dict[str, Call],
    smallest: int,
    parts: list[Part],
    refused: dict[str, str],
) -> None:
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if sum(1 for _ in child.modules()) < smallest:
            continue
        if inner in calls:
            args, kwargs = calls[inner]
            try:
                parts.append(Part(inner, _capture(child, args, kwargs)))
                continue
            except TersorError as error:
                refused[inner] = str(error)
        _descend(child, inner, calls, smallest, parts, refused)


def _capture(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program:
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    if bound.kwargs:
        return capture_module(module, {**dict(bound.arguments)}) if not bound.args else capture_module(module, kwargs)
    return capture_module(module, bound.args)


class Substituted(torch.nn.Module):
    """A sub-module that runs its optimized form where the inputs fit, and itself where they do not."""

    def __init__(self, original: torch.nn.Module, fast: Callable[..., Any]) -> None:
        super().__init__()
        self.original = original
        self.fast = fast

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The original's result."""
        from tersor.errors import InputError

        try:
            return self.fast(*args, **kwargs)
        except InputError:
            return self.original(*args, **kwargs)


def substitute(model: torch.nn.Module, replacements: dict[str, Callable[..., Any]]) -> torch.nn.Module:
    """A copy of the module tree that shares every weight, with the named sub-modules replaced."""
    return _copied(model, "", replacements)


def _copied(module: torch.nn.Module, path: str, replacements: dict[str, Callable[..., Any]]) -> torch.nn.Module:
    if path in replacements:
        return Substituted(module, replacements[path])
    twin = module.__class__.__new__(module.__class__)
    twin.__dict__.update(module.__dict__)
    children = {
        name: child if child is None else _copied(child, f"{path}.{name}" if path else name, replacements)
        for name, child in module._modules.items()
    }
    twin.__dict__["_modules"] = children
    return twin
