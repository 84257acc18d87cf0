"""Scales and shifts of normalisations, folded into the layers that read them."""

from __future__ import annotations

from torch import Tensor, fx

from tersor.passes._weights import shared_with
from tersor.program import Program
from tersor.rewrite_arguments import set_argument, set_constant
from tersor.rewrite_values import arguments, fake, key

_VIEWS = (
    "reshape", "view", "flatten", "select", "slice", "clone", "contiguous", "dropout", "unsqueeze", "squeeze", "expand",
)  # fmt: skip
"""Between a normalisation and a layer, where the last dimension stays the last."""


def unfoldable(program: Program, node: fx.Node) -> str:
    """Why the layers behind a normalisation over the last dimension cannot take its scale; empty where they can."""
    given = arguments(node)
    weight, bias = (program.weight(given.get(name)) for name in ("weight", "bias"))
    if any(given.get(name) is not None and program.weight(given[name]) is None for name in ("weight", "bias")):
        return f"the scale of {node.name} is computed in the graph"
    if _is_trivial(weight, bias):
        return ""
    found = _readers(program, node, node)
    return found if isinstance(found, str) else ""


def _is_trivial(weight: Tensor | None, bias: Tensor | None) -> bool:
    return (weight is None or bool((weight == 1).all())) and (bias is None or bool((bias == 0).all()))


def _readers(program: Program, norm: fx.Node, node: fx.Node) -> list[fx.Node] | str:
    """The layers behind a value; or the first reader that is none."""
    found: list[fx.Node] = []
    for user in node.users:
        given = arguments(user)
        if key(user) in _VIEWS and fake(user).dim() and fake(user).shape[-1] == fake(norm).shape[-1]:
            behind = _readers(program, norm, user)
            if isinstance(behind, str):
                return behind
            found += behind
        elif key(user) != "linear" or given["input"] is not node or program.weight(given["weight"]) is None:
            return f"{user.name} reads {norm.name} and is no layer that could take its scale"
        elif given["bias"] is not None and program.weight(given["bias"]) is None:
            return f"the bias of {user.name} is computed in the graph"
        elif shared_with(program, given["weight"], user) is not None:
            return f"the weight of {user.name} is read by others too, and cannot take the scale of {norm.name}"
        else:
            found.append(user)
    return found


def fold(program: Program, node: fx.Node) -> None:
    """Let the layers behind a normalisation scale and shift in its place, where `unfoldable` has no objection."""
    given = arguments(node)
    weight, bias = (program.weight(given.get(name)) for name in ("weight", "bias"))
    if not _is_trivial(weight, bias):
        readers = _readers(program, node, node)
        assert isinstance(readers, list)
        for user in readers:
            _take_in(program, user, weight, bias)
    for name in ("weight", "bias"):
        source = given.get(name)
        if source is not None:
            set_argument(node, name, None)
            if not source.users:
                program.graph.erase_node(source)
    program.changed()


def _take_in(program: Program, user: fx.Node, weight: Tensor | None, bias: Tensor | None) -> None:
    given = arguments(user)
    old, start = program.weight(given["weight"]), program.weight(given["bias"])
    assert old is not None
    if bias is not None and bool((bias != 0).any()):
        added = old.double() @ bias.double()
        made = added if start is None else start.double() + added
        set_constant(program, user, "bias", made.to(fake(user).dtype), f"{user.name}_bias")
    if weight is not None:
        set_constant(program, user, "weight", (old.double() * weight.double()).to(old.dtype), f"{user.name}_weight")
