"""Flatten the higher-order wrappers that torch.export leaves around regions without gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_GRADIENT = ("wrap_with_set_grad_enabled",)


def inline_wrappers(module: torch.nn.Module) -> None:
    """Replace ``wrap_with_set_grad_enabled(flag, body, *inputs)`` by the body's nodes, in place.

    Inference does not record gradients, so the flag has no effect.
    """
    graph: fx.Graph = module.graph  # type: ignore[assignment]
    for node in list(graph.nodes):
        if node.op != "call_function" or getattr(node.target, "__name__", "") not in _GRADIENT:
            continue
        body = attribute(module, str(node.args[1].target))
        inline_wrappers(body)
        _splice(graph, node, body, module)
    graph.lint()


def attribute(module: torch.nn.Module, target: str) -> Any:
    """What a dotted name means in a module."""
    value: Any = module
    for part in target.split("."):
        value = getattr(value, part)
    return value


def _splice(graph: fx.Graph, node: fx.Node, body: torch.nn.Module, module: torch.nn.Module) -> None:
    inner: fx.Graph = body.graph  # type: ignore[assignment]
    values: dict[fx.Node, Any] = dict(zip(inner.find_nodes(op="placeholder"), node.args[2:], strict=True))
    with graph.inserting_before(node):
        for copied in inner.nodes:
            if copied.op == "get_attr":
                name = f"{node.name}_{copied.target}".replace(".", "_")
                setattr(module, name, attribute(body, str(copied.target)))
                values[copied] = graph.get_attr(name)
                values[copied].meta = dict(copied.meta)
            elif copied.op == "call_function":
                values[copied] = graph.node_copy(copied, lambda argument: values[argument])
    returned = fx.node.map_arg(next(iter(reversed(inner.nodes))).args[0], lambda argument: values[argument])
    _replace_result(graph, node, returned)


def _replace_result(graph: fx.Graph, node: fx.Node, returned: Any) -> None:
    if not isinstance(returned, tuple | list):
        node.replace_all_uses_with(returned)
    else:
        for user in list(node.users):
            position: Any = user.args[1]
            user.replace_all_uses_with(returned[position])
            graph.erase_node(user)
    graph.erase_node(node)
