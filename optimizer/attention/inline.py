"""A module of query, key, value and mask, spelled out in a program in place of an attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from tersor.capture.torch import capture_module
from tersor.errors import CaptureError
from tersor.program import Program
from tersor.rewrite import insert_call, insert_weight, replace
from tersor.rewrite_values import arguments, fake, known

OPERANDS = ("query", "key", "value", "attn_mask")


@dataclass
class Speller:
    """Inserts the operators of modules; what was captured for one layer serves the others like it.

    Attributes:
        known: captured modules by name and by the shapes of what they are called on.
    """

    known: dict[tuple[str, ...], Program] = field(default_factory=dict)

    def spell(
        self, program: Program, before: fx.Node, module: nn.Module, operands: Sequence[fx.Node], name: str
    ) -> fx.Node:
        """Insert a module called on some tensors; returns the node of its one result, which nobody reads yet.

        Args:
            name: modules of one name differ in their buffers only.

        Raises:
            CaptureError: a size that differs from call to call would become fixed.
            RewriteError: an operator does not fit.
        """
        inner = self._captured(module, operands, name)
        held = dict(module.named_buffers())
        values: dict[fx.Node, Any] = dict(zip(inner.placeholders, operands, strict=True))
        for item in inner.nodes:
            if item.op == "get_attr":
                weight = held.get(str(item.target), inner.weights[str(item.target)])
                called = f"{before.name}_{item.target}".replace(".", "_")
                values[item] = insert_weight(program, before, called, weight)
            elif item.op == "call_function":
                args, kwargs = fx.node.map_arg((item.args, item.kwargs), lambda argument: values[argument])
                target = _RESHAPE if item.target in _VIEWS else item.target
                values[item] = insert_call(before, target, args, kwargs)
        made: fx.Node = values[inner.outputs[0]]
        return made

    def _captured(self, module: nn.Module, operands: Sequence[fx.Node], name: str) -> Program:
        place = (name, *(f"{fake(item).dtype}{list(fake(item).shape)}" for item in operands))
        if place not in self.known:
            generator = torch.Generator().manual_seed(0)
            examples = tuple(_example(fake(item), generator) for item in operands)
            sizes = tuple(_dynamic(fake(item)) for item in operands)
            inner = capture_module(module.eval(), examples, sizes if any(sizes) else None)
            if fixed := _fixed(inner, sizes):
                raise CaptureError(fixed, "choose a method that takes sequences of any length")
            self.known[place] = inner
        return self.known[place]


def operands(node: fx.Node, *names: str) -> list[fx.Node]:
    """The tensors that an attention is given, of those named."""
    given = arguments(node)
    return [given[name] for name in names if isinstance(given[name], fx.Node)]


def stand_for(program: Program, node: fx.Node, made: fx.Node) -> None:
    """Replace an attention; raises RewriteError where the result has another shape.

    A view of its result may demand the strides that it had; a reshape takes any.
    """
    for item in program.nodes:
        if item.target in _VIEWS:
            item.target = _RESHAPE
    replace(program, node, made)


_RESHAPE = torch.ops.aten.reshape.default
_VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


def _example(value: Tensor, generator: torch.Generator) -> Tensor:
    """A tensor of the shape at the example, or larger where that differs from call to call."""
    sizes: list[Any] = list(value.shape)
    shape = [
        int(size) if known(size) is not None else max(_least(axis) + 1, int(size.node.hint))
        for axis, size in enumerate(sizes)
    ]
    if value.dtype == torch.bool:
        return torch.ones(shape, dtype=torch.bool)
    return torch.randn(shape, generator=generator).to(value.dtype)


def _least(axis: int) -> int:
    """Tokens are taken to fill more than one block while a module is captured: one would be taken for fixed."""
    return 2 if axis < 2 else 256


def _dynamic(value: Tensor) -> dict[int, Any]:
    """Axes that differ from call to call; which of them are equal is found at capture."""
    return {axis: torch.export.Dim.AUTO for axis, size in enumerate(value.shape) if known(size) is None}


def _fixed(inner: Program, sizes: Sequence[dict[int, Any]]) -> str:
    """An axis that capture took for fixed and that is not, as text; empty where there is none."""
    for name, had, wanted in zip(OPERANDS, inner.sizes, sizes, strict=False):
        for axis in wanted:
            if isinstance(had[axis], int):
                return f"axis {axis} of {name} would become {had[axis]} for every call"
    return ""
