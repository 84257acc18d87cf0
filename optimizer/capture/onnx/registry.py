"""Which Python function replays which ONNX operator, by domain, name and opset version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tersor.capture.onnx.values import Value


@dataclass(frozen=True)
class Node:
    """What an operator function may know of its ONNX node.

    Attributes:
        version: the opset version of the node's domain in this model.
        attributes: Python values: int, float, str, lists of them, tensors as `torch.Tensor`.
        outputs: names of the outputs; an empty name is an output nobody wants.
    """

    op_type: str
    domain: str
    version: int
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute, or the default where the file leaves it out."""
        return self.attributes.get(name, default)


Function = Callable[..., "Value | tuple[Value | None, ...]"]


@dataclass(frozen=True)
class Operator:
    """One function for a range of versions.

    ``function(node, *inputs)`` gets tensors, and None for absent inputs; the inputs at positions ``static`` arrive as
    they are (`Host` where known) so that it can call `numbers()` on them. ``host=True``: called with `Host` inputs
    when every input is one, returns `Host`.
    """

    function: Function
    since: int
    static: tuple[int, ...] = ()


_TENSOR: dict[tuple[str, str], list[Operator]] = {}
_HOST: dict[tuple[str, str], list[Operator]] = {}


def operator(
    *names: str, since: int = 1, static: tuple[int, ...] = (), host: bool = False, domain: str = ""
) -> Callable[[Function], Function]:
    """Register a function for the operators ``names`` from opset ``since`` until the next registered version."""

    def register(function: Function) -> Function:
        table = _HOST if host else _TENSOR
        for name in names:
            entries = table.setdefault((domain, name), [])
            entries.append(Operator(function, since, static))
            entries.sort(key=lambda entry: entry.since)
        return function

    return register


def find(domain: str, name: str, version: int, *, host: bool = False) -> Operator | None:
    """The function for this operator at this version, or None."""
    entries = (_HOST if host else _TENSOR).get(("" if domain == "ai.onnx" else domain, name), [])
    fitting = [entry for entry in entries if entry.since <= version]
    return fitting[-1] if fitting else None
