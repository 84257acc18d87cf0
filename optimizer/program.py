"""`Program`, the one value that flows: a functional ATen graph, its weights, its interface, its dynamic dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import sympy
import torch
from torch import fx

from tersor.errors import InputError
from tersor.interface import Flat, Interface
from tersor.rounding import fused, is_quantized


@dataclass(frozen=True)
class Dimension:
    """A size that may differ from call to call.

    Where the model wants a multiple of something, such as a height of ``32 * s0``, the symbol counts the steps, and
    hint and bounds are those of the symbol.

    Attributes:
        name: as the user or the ONNX file calls the axis.
        symbol: the Python identifier used for it in shape expressions.
        hint: its value in the example inputs.
        minimum, maximum: inclusive bounds; maximum None is unbounded.
        step: the axis is this many times the symbol.
    """

    name: str
    symbol: str
    hint: int
    minimum: int = 1
    maximum: int | None = None
    step: int = 1


Size: TypeAlias = int | sympy.Expr
"""One axis of an input: a number, or an expression over `Dimension.symbol`s."""


_REMEMBERED = 1024
"""So many shapes of inputs are remembered as checked."""


@dataclass
class Program:
    """A captured model. Passes edit `graph` and replace entries of `weights`; nothing is ever written into.

    Attributes:
        graph: torch.fx graph of ATen operators; inputs are placeholders, weights are ``get_attr`` nodes whose target
            is a key of `weights`, the output is a flat tuple of nodes; every node has ``meta["val"]``.
        weights: tensors by their name in the original model; sub-graphs of control flow are modules.
        inputs: example inputs, one tensor per placeholder.
        given: those that the user gave, where a dynamic axis has size 1 in them and capture needed a larger one.
        sizes: for each input the size of each axis.
        dimensions: the dynamic ones, by symbol.
        interface: how the original is called.
        opaque: nodes kept verbatim from an ONNX file, by key.
        notes: what the user should know of the capture.
    """

    graph: fx.Graph
    weights: dict[str, Any]
    inputs: Flat
    sizes: tuple[tuple[Size, ...], ...]
    dimensions: dict[str, Dimension]
    interface: Interface
    opaque: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    given: Flat | None = None
    derived: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    """What was computed from the graph and is expensive: its module, its ONNX models. `changed()` forgets it."""

    def clone(self) -> Program:
        """A copy whose graph can be edited; weights are shared."""
        graph = fx.Graph()
        values: dict[fx.Node, fx.Node] = {}
        outputs = graph.graph_copy(self.graph, values)
        copied_output = graph.output(outputs)
        copied_output.meta = dict(self.output_node.meta)
        return replace(self, graph=graph, weights=dict(self.weights), notes=list(self.notes), derived={})

    @property
    def example(self) -> Flat:
        """Inputs as the user calls it: what is timed."""
        return self.inputs if self.given is None else self.given

    @property
    def nodes(self) -> Iterator[fx.Node]:
        """The nodes in execution order."""
        return iter(self.graph.nodes)

    @property
    def placeholders(self) -> list[fx.Node]:
        """The input nodes, in order."""
        return list(self.graph.find_nodes(op="placeholder"))

    @property
    def output_node(self) -> fx.Node:
        """The node that returns."""
        return next(iter(reversed(self.graph.nodes)))

    @property
    def outputs(self) -> list[fx.Node]:
        """The returned nodes, in order."""
        return list(self.output_node.args[0])  # type: ignore[arg-type]

    def weight(self, node: Any) -> torch.Tensor | None:
        """The tensor of a ``get_attr`` node, or None for any other argument."""
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        value = self.weights.get(str(node.target))
        return value if isinstance(value, torch.Tensor) else None

    def add_weight(self, name: str, value: torch.Tensor) -> str:
        """Store a new weight under ``name``, or a numbered variant where that is taken; returns the name."""
        unique, count = name, 0
        while unique in self.weights:
            count += 1
            unique = f"{name}_{count}"
        self.weights[unique] = value.detach()
        return unique

    def prune_weights(self) -> None:
        """Forget weights that no node reads."""
        used = {str(node.target) for node in self.graph.find_nodes(op="get_attr")}
        self.weights = {name: value for name, value in self.weights.items() if name in used}

    def parameter_bytes(self) -> int:
        """Bytes of all distinct weight tensors."""
        tensors = {id(value): value for value in self.weights.values() if isinstance(value, torch.Tensor)}
        return sum(value.numel() * value.element_size() for value in tensors.values())

    def module(self) -> fx.GraphModule:
        """The graph as a module that takes and returns flat tensors; cached until `changed()`."""
        if "module" not in self.derived:
            attributes = {name: _frozen(value) for name, value in self.weights.items()}
            graph = fx.Graph()
            graph.output(graph.graph_copy(self.graph, {}))
            self.derived["module"] = fx.GraphModule(attributes, graph)
        made: fx.GraphModule = self.derived["module"]
        return made

    def changed(self) -> None:
        """Forget what was derived from the graph before an edit."""
        self.derived.clear()

    def run(self, inputs: Sequence[torch.Tensor]) -> Flat:
        """Execute the graph eagerly on flat inputs."""
        with torch.no_grad():
            return tuple(self._runner()(*inputs))

    def _runner(self) -> fx.GraphModule:
        """`module`, or what computes the same in less time where values are rounded."""
        if "runner" not in self.derived:
            attributes = {name: _frozen(value) for name, value in self.weights.items()}
            quantized = is_quantized(self.graph)
            self.derived["runner"] = fused(self.graph, attributes) if quantized else self.module()
        made: fx.GraphModule = self.derived["runner"]
        return made

    def run_flat(self, *inputs: torch.Tensor) -> Flat:
        """`run` with the inputs as positional arguments, as compiled programs are called."""
        return self.run(inputs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call with the original's arguments, return the original's structure."""
        flat = self.interface.flatten(args, kwargs)
        self.check_inputs(flat)
        return self.interface.unflatten(self.run(flat))

    def check_inputs(self, inputs: Sequence[torch.Tensor]) -> Mapping[str, int]:
        """Raise InputError where dtype or shape do not fit; returns the size of each dimension by symbol.

        Shapes that were right before are looked up: solving for a dimension takes longer than some models do.
        """
        known: dict[Any, dict[str, int]] = self.derived.setdefault("checked", {})
        shapes = (*[value.shape for value in inputs], *[value.dtype for value in inputs])
        found = known.get(shapes)
        if found is None:
            if len(known) >= _REMEMBERED:
                known.clear()
            found = known[shapes] = self._solved(inputs)
        return found

    def _solved(self, inputs: Sequence[torch.Tensor]) -> dict[str, int]:
        bound: dict[str, int] = {}
        for name, example, sizes, value in zip(
            self.interface.input_names, self.inputs, self.sizes, inputs, strict=True
        ):
            if value.dtype != example.dtype or value.dim() != len(sizes):
                raise InputError(
                    f"input {name!r} is {value.dtype} of shape {list(value.shape)}",
                    f"wanted {example.dtype} of shape {describe(sizes, self.dimensions)}",
                )
            self._bind_sizes(name, sizes, value, bound)
        return bound

    def _bind_sizes(self, name: str, sizes: tuple[Size, ...], value: torch.Tensor, bound: dict[str, int]) -> None:
        for axis, (wanted, got) in enumerate(zip(sizes, value.shape, strict=True)):
            expected = _expected(wanted, int(got), bound)
            if expected is not None and expected != got:
                raise InputError(
                    f"input {name!r} has size {got} on axis {axis}, wanted {expected}",
                    f"the model takes {describe(sizes, self.dimensions)}",
                )


def _expected(wanted: Size, got: int, bound: dict[str, int]) -> int | str | None:
    """The size that fits, binding a symbol met for the first time; text where no integer fits; None if unknown."""
    if not isinstance(wanted, sympy.Expr):
        return wanted
    if isinstance(wanted, sympy.Symbol):
        return bound.setdefault(wanted.name, got)
    free = [symbol for symbol in wanted.free_symbols if str(symbol) not in bound]
    if len(free) > 1:
        return None
    if free:
        solutions = sympy.solve(wanted.subs(_by_symbol(wanted, bound)) - got, free[0])
        if not solutions or not solutions[0].is_Integer:
            return f"{wanted} for an integer {free[0]}"
        bound[str(free[0])] = int(solutions[0])
        return got
    return evaluate(wanted, bound)


def _by_symbol(size: sympy.Expr, bound: Mapping[str, int]) -> dict[sympy.Basic, int]:
    return {symbol: bound[str(symbol)] for symbol in size.free_symbols if str(symbol) in bound}


def evaluate(size: Size, bound: Mapping[str, int]) -> int:
    """The number that a size has where each symbol is bound.

    >>> evaluate(2 * sympy.Symbol("s0", positive=True), {"s0": 3})
    6
    """
    return int(size.subs(_by_symbol(size, bound))) if isinstance(size, sympy.Expr) else size


def _frozen(value: Any) -> Any:
    """fx stores plain tensors as buffers; parameters would be trained and moved by accident."""
    return value.detach() if isinstance(value, torch.nn.Parameter) else value


def describe(sizes: Sequence[Size], dimensions: Mapping[str, Dimension]) -> str:
    """Sizes as a person reads them.

    >>> describe((sympy.Symbol("s0"), 3), {"s0": Dimension("batch", "s0", 2)})
    '[batch, 3]'
    """
    return f"[{', '.join(_describe(size, dimensions) for size in sizes)}]"


def _describe(size: Size, dimensions: Mapping[str, Dimension]) -> str:
    if not isinstance(size, sympy.Expr):
        return str(size)
    names = {
        symbol: sympy.Symbol(dimensions[str(symbol)].name) / dimensions[str(symbol)].step
        for symbol in size.free_symbols
        if str(symbol) in dimensions
    }
    return str(size.subs(names))
