"""Python functions on tensors, traced to ATen and put into a program as nodes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.experimental.proxy_tensor import make_fx

from tersor.errors import RewriteError, first_line
from tersor.program import Program
from tersor.rewrite import annotate, fake_mode, insert_weight


def insert(program: Program, before: fx.Node, function: Callable[..., Any], *args: fx.Node | None) -> Any:
    """Insert what ``function`` does to the values of ``args``, before a node; returns its result as nodes.

    The function takes and gives tensors (None stays None) and may be written in plain PyTorch; sizes that differ from
    call to call stay symbolic. Raises RewriteError where it does not fit its inputs.
    """
    given = [item for item in args if item is not None]
    traced = _traced(function, args, fake_mode(given[0]))
    values: dict[fx.Node, Any] = {}
    inputs = iter(given)
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(inputs)
        elif node.op == "get_attr":
            constant = getattr(traced, str(node.target))
            values[node] = insert_weight(program, before, str(node.target).strip("_"), constant)
        elif node.op == "call_function":
            with before.graph.inserting_before(before):
                values[node] = before.graph.node_copy(node, lambda argument: values[argument])
            values[node].meta = {}
            _as_captured(values[node])
            annotate(values[node], before)
        else:
            return fx.node.map_arg(node.args[0], lambda argument: values[argument])
    raise RewriteError("a traced function returns nothing")


def _as_captured(node: fx.Node) -> None:
    """A cast as capture writes it."""
    if node.target is torch.ops.aten.to.dtype:
        node.target, node.args, node.kwargs = torch.ops.aten._to_copy.default, node.args[:1], {"dtype": node.args[1]}


def _traced(function: Callable[..., Any], args: tuple[fx.Node | None, ...], mode: Any) -> fx.GraphModule:
    given = [item.meta["val"] for item in args if item is not None]

    def flat(*values: Any) -> Any:
        waiting = iter(values)
        return function(*(None if item is None else next(waiting) for item in args))

    try:
        with torch.no_grad(), mode or contextlib.nullcontext(), enable_python_dispatcher():
            return make_fx(flat, pre_dispatch=True)(*given)
    except Exception as error:
        line = first_line(error)
        raise RewriteError(f"{getattr(function, '__name__', 'a function')} does not fit its inputs: {line}") from error
