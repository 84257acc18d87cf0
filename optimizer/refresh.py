"""Recompute every shape of an edited program, and fail loudly where a literal no longer fits."""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.utils._sympy.value_ranges import ValueRanges

from tersor.errors import RewriteError
from tersor.program import Dimension, Program, Size


def refresh(program: Program) -> Program:
    """Run the graph on fake tensors with fresh symbols, in place; sets ``meta["val"]`` on every node.

    Costs about a millisecond a node; no weight is read. Raises RewriteError naming the node whose shapes do not fit,
    or the dynamic dimension that an edit has made static.
    """
    program.graph.lint()
    shape_env = ShapeEnv()
    symbols = {key: _symbol(shape_env, dimension) for key, dimension in program.dimensions.items()}
    mode = FakeTensorMode(shape_env=shape_env, allow_non_fake_inputs=True)
    _propagate(program, mode, _fake_inputs(program, mode, shape_env, symbols))
    for key, symint in symbols.items():
        if isinstance(shape_env.replace(symint.node.expr), sympy.Integer):
            name = program.dimensions[key].name
            raise RewriteError(
                f"dynamic dimension {name!r} became the constant {shape_env.replace(symint.node.expr)}",
                "a rewrite must compute sizes from its inputs, not from the example",
            )
    program.changed()
    return program


def _symbol(shape_env: ShapeEnv, dimension: Dimension) -> torch.SymInt:
    source = ConstantSource(f"dimension_{dimension.symbol}")
    symbol = shape_env.create_symbol(
        dimension.hint, source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None, do_not_specialize_zero_one=True
    )
    if isinstance(symbol, sympy.Symbol):
        upper = dimension.maximum if dimension.maximum is not None else sympy.oo
        low = max(dimension.minimum, 2 if dimension.hint >= 2 else dimension.hint)
        shape_env.var_to_range[symbol] = ValueRanges(low, upper)
    made = shape_env.create_symintnode(symbol, hint=dimension.hint, source=source)
    assert isinstance(made, torch.SymInt)
    return made


def _fake_inputs(
    program: Program, mode: FakeTensorMode, shape_env: ShapeEnv, symbols: dict[str, torch.SymInt]
) -> list[torch.Tensor]:
    inputs = []
    with mode:
        for example, sizes in zip(program.inputs, program.sizes, strict=True):
            shape = [_concrete(size, symbols, shape_env) for size in sizes]
            inputs.append(torch.empty(shape, dtype=example.dtype, device=example.device))
    return inputs


def _concrete(size: Size, symbols: dict[str, torch.SymInt], shape_env: ShapeEnv) -> Any:
    if not isinstance(size, sympy.Expr):
        return size
    if isinstance(size, sympy.Symbol):
        return symbols[size.name]
    values = {symbol: symbols[str(symbol)].node for symbol in size.free_symbols}
    expression = size.xreplace({symbol: node.expr for symbol, node in values.items()})
    hint = int(size.subs({symbol: node.hint for symbol, node in values.items()}))
    return shape_env.create_symintnode(expression, hint=hint)


def _propagate(program: Program, mode: FakeTensorMode, inputs: list[torch.Tensor]) -> None:
    environment: dict[fx.Node, Any] = {}
    waiting = iter(inputs)
    fakes: dict[str, Any] = {}
    # Some composite operators are symbolic only in their Python form (upsample_nearest2d.vec in C++ reads the hint).
    with mode, torch.no_grad(), enable_python_dispatcher():
        for node in program.graph.nodes:
            if node.op == "placeholder":
                environment[node] = next(waiting)
            elif node.op == "get_attr":
                environment[node] = _fake_weight(program, node, mode, fakes)
            elif node.op == "call_function":
                environment[node] = _call(node, environment)
            else:
                continue
            node.meta["val"] = environment[node]
            node.meta.pop("tensor_meta", None)


def _fake_weight(program: Program, node: fx.Node, mode: FakeTensorMode, fakes: dict[str, Any]) -> Any:
    name = str(node.target)
    if name not in program.weights:
        raise RewriteError(f"node {node.name} reads weight {name!r}, which the program does not hold")
    if name not in fakes:
        value = program.weights[name]
        fakes[name] = mode.from_tensor(value, static_shapes=True) if isinstance(value, torch.Tensor) else value
    return fakes[name]


def _call(node: fx.Node, environment: dict[fx.Node, Any]) -> Any:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda argument: environment[argument])
    try:
        return node.target(*args, **kwargs)  # type: ignore[operator]
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RewriteError(f"node {node.name} ({node.target}) does not fit its inputs: {reason}") from error
