"""How a program is called and what it returns: argument structure, names, and values fixed at capture."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch.utils import _pytree as pytree

from tersor.errors import InputError

Flat = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Interface:
    """The calling convention of the original, kept by everything made from it.

    Attributes:
        input_names: one name per tensor input of the graph, in order.
        output_names: one name per tensor output of the graph, in order.
        parameters: the original's Python signature; None where inputs are called by position or name (ONNX).
        in_spec: structure of the captured ``{parameter: value}``; None for ONNX.
        in_leaves: for each leaf of ``in_spec`` the tensor input it feeds, or None where the value is fixed.
        fixed: values of the other leaves, by leaf position.
        out_spec: structure of the result; None returns a tuple.
        out_leaves: for each leaf of ``out_spec`` the tensor output it takes, or None.
        out_fixed: values of the other leaves, by leaf position.
        axis_names: names of dynamic axes, by (input or output name, axis).
        metadata: what an ONNX file says of itself, written back on export.
    """

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    parameters: inspect.Signature | None = None
    in_spec: Any = None
    in_leaves: tuple[int | None, ...] = ()
    fixed: Mapping[int, Any] = field(default_factory=dict)
    out_spec: Any = None
    out_leaves: tuple[int | None, ...] = ()
    out_fixed: Mapping[int, Any] = field(default_factory=dict)
    axis_names: Mapping[tuple[str, int], str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Flat:
        """The tensor inputs of a call, in graph order; raises InputError where the call does not fit."""
        plain = self._plain(args, kwargs)
        if plain is not None:
            return plain
        if self.parameters is None or self.in_spec is None:
            return self._by_name(args, kwargs)
        leaves, spec = pytree.tree_flatten(bind(self.parameters, args, kwargs))
        if spec != self.in_spec:
            raise InputError(
                f"the call's argument structure is {spec}, the model was captured with {self.in_spec}",
                "call it as in the example inputs, or capture it again with these",
            )
        return self._pick(leaves)

    @cached_property
    def _tensor_names(self) -> tuple[str, ...]:
        """What a call may name its tensors by, where these alone, in order, are the graph's inputs; else nothing."""
        if self.parameters is None or self.in_spec is None:
            return self.input_names
        if self.in_leaves != tuple(range(len(self.input_names))):
            return ()
        names = tuple(self.in_spec.context)
        first = list(self.parameters.parameters.values())[: len(names)]
        usual = all(item.kind is item.POSITIONAL_OR_KEYWORD for item in first)
        alone = all(child.is_leaf() for child in self.in_spec.children())
        return names if usual and alone and names == tuple(item.name for item in first) else ()

    def _plain(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Flat | None:
        """The inputs of a call with tensors only, without the microseconds that structures take; None for others."""
        names = self._tensor_names
        if not names or len(args) + len(kwargs) != len(names):
            return None
        given = tuple(args) if not kwargs else (*args, *[kwargs.get(name) for name in names[len(args) :]])
        return given if _tensors(given) else None

    def _pick(self, leaves: Sequence[Any]) -> Flat:
        found: dict[int, torch.Tensor] = {}
        for position, (leaf, slot) in enumerate(zip(leaves, self.in_leaves, strict=True)):
            if slot is None:
                self._same_constant(position, leaf)
            elif isinstance(leaf, torch.Tensor):
                found[slot] = leaf
            else:
                raise InputError(f"input {self.input_names[slot]!r} is {type(leaf).__name__}, wanted a tensor")
        return tuple(found[slot] for slot in range(len(self.input_names)))

    def _same_constant(self, position: int, leaf: Any) -> None:
        captured = self.fixed.get(position)
        if leaf is not captured and leaf != captured:
            raise InputError(
                f"argument value {leaf!r} differs from {captured!r}, which was fixed at capture",
                "pass it as a tensor, or capture the model again with this value",
            )

    def _by_name(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Flat:
        only = next(iter(args), None)
        if len(args) == 1 and isinstance(only, Mapping) and not kwargs:
            args, kwargs = (), only
        named: dict[str, Any] = dict(zip(self.input_names, args, strict=False))
        unknown = [name for name in kwargs if name not in self.input_names or name in named]
        named.update(kwargs)
        missing = [name for name in self.input_names if name not in named]
        if unknown or missing or len(args) > len(self.input_names):
            raise InputError(
                f"got {len(args)} positional inputs and names {sorted(kwargs)}",
                f"wanted exactly {list(self.input_names)}",
            )
        return tuple(torch.as_tensor(named[name]) for name in self.input_names)

    def unflatten(self, outputs: Sequence[Any]) -> Any:
        """The result in the original's structure, from the graph's flat outputs."""
        if self.out_spec is None:
            return tuple(outputs)
        if self.out_spec.is_leaf() and self.out_leaves == (0,):
            return outputs[0]
        leaves = [
            self.out_fixed.get(position) if slot is None else outputs[slot]
            for position, slot in enumerate(self.out_leaves)
        ]
        return pytree.tree_unflatten(leaves, self.out_spec)


def _tensors(values: Sequence[Any]) -> bool:
    for value in values:  # noqa: SIM110 - a generator under `all` takes three times as long
        if not isinstance(value, torch.Tensor):
            return False
    return True


def bind(parameters: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by parameter name, so that a keyword or positional call flattens alike.

    >>> bind(inspect.signature(lambda x, y=1: None), (3,), {"y": 4})
    {'x': 3, 'y': 4}
    """
    try:
        return dict(parameters.bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise InputError(f"the call does not fit the model's signature {parameters}: {error}") from None
