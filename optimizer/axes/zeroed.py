"""The oracle of a cut: the original, with everything that reads the removed indices reading zeros instead."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from tersor.axes.analysis import Axes
from tersor.axes.flow import Contraction, Literal, Value
from tersor.axes.meaning import result as result_name
from tersor.axes.remove import narrowed
from tersor.axes.select import Kept, indices, touched
from tersor.axes.terms import size
from tersor.interface import Flat
from tersor.program import Program
from tersor.rewrite_arguments import set_argument


def zeroed(program: Program, axes: Axes, kept: Kept, inputs: Sequence[torch.Tensor]) -> Flat:
    """Outputs of the uncut program where the removed indices count for nothing.

    Wherever a dimension is summed over, the removed indices are zeroed first, which is the same as zeroing the
    consumer's weights for them. Where a formula runs over the dimension as a whole, such as the statistics of a layer
    norm, it is computed over the kept indices only. The program's weights and literals are the original's, so that
    agreement with the cut program shows that all its slices and sizes belong together (the test of Only-Train-Once,
    Chen et al., NeurIPS 2021, generalised).
    """
    runner = _Zeroed(program, axes, kept)
    with torch.no_grad():
        return tuple(runner.run(*inputs))


class _Zeroed(fx.Interpreter):
    """Runs the original graph with masks."""

    def __init__(self, program: Program, axes: Axes, kept: Kept) -> None:
        super().__init__(program.module(), garbage_collect_values=True)
        self.axes, self.kept = axes, kept
        self.sums: dict[str, list[Contraction]] = defaultdict(list)
        for item in axes.contractions:
            if touched(item.term, kept):
                self.sums[item.node].append(item)
        self.literals: dict[str, list[Literal]] = defaultdict(list)
        for literal in axes.literals:
            self.literals[literal.node].append(literal)
        self.spanned = {item.node for item in axes.spans if touched(item.term, kept)}

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self.spanned:
            return self._sliced(n)
        if n.name not in self.sums:
            return super().run_node(n)
        masked = {item.operand for item in self.sums[n.name]}
        args, kwargs = fx.node.map_arg(
            (n.args, n.kwargs), lambda source: self._masked(n, source) if source.name in masked else self.env[source]
        )
        return self.call_function(n.target, args, kwargs)

    def _masked(self, node: fx.Node, source: fx.Node) -> torch.Tensor:
        value: torch.Tensor = self.env[source]
        for item in self.sums[node.name]:
            if item.operand == source.name:
                dim = item.dim % value.dim()
                stay = torch.zeros(value.shape[dim], dtype=torch.bool)
                stay[indices(item.term, self.kept)] = True
                gone = (~stay).nonzero().flatten()
                value = value.index_fill(dim, gone, 0)
        return value

    def _sliced(self, node: fx.Node) -> Any:
        """Run one node on the kept indices only, and spread the result out again."""
        scratch = fx.Graph()
        copied = scratch.node_copy(node, lambda source: scratch.placeholder(source.name))
        for literal in self.literals[node.name]:
            set_argument(copied, literal.argument, literal.value(self.kept))
        by_name = {source.name: source for source in node.all_input_nodes}

        def value(placeholder: fx.Node) -> Any:
            source = by_name[str(placeholder.target)]
            narrow = _narrow(self.env[source], self.axes.values.get(source.name), self.kept)
            return self._renumbered(source.name, narrow, back=False)

        args, kwargs = fx.node.map_arg((copied.args, copied.kwargs), value)
        made = self.call_function(node.target, args, kwargs)
        spread = _spread(made, self.axes.values[node.name], self.kept, node.meta["val"])
        if isinstance(spread, list | tuple):
            return [self._renumbered(result_name(node, i), item, back=True) for i, item in enumerate(spread)]
        return self._renumbered(node.name, spread, back=True)

    def _renumbered(self, name: str, value: Any, back: bool) -> Any:
        """Positions into a cut axis, from their numbers among all to those among the kept, or back."""
        found = self.axes.meanings.get(name)
        if found is None or found.kind != "position" or not touched(found.term, self.kept):
            return value
        stay = indices(found.term, self.kept)
        if back:
            return stay[value]
        numbers = torch.zeros(int(size(found.term)), dtype=torch.int64)
        numbers[stay] = torch.arange(len(stay))
        return numbers[value]


def _narrow(value: Any, dims: Value, kept: Kept) -> Any:
    if isinstance(value, torch.Tensor) and isinstance(dims, tuple):
        return narrowed(value, dims, kept)
    return value


def _spread(value: Any, dims: Value, kept: Kept, like: Any) -> Any:
    if isinstance(value, list | tuple):
        assert isinstance(dims, list)
        return type(value)(_spread(v, d, kept, m) for v, d, m in zip(value, dims, like, strict=True))
    if not isinstance(value, torch.Tensor) or not isinstance(dims, tuple):
        return value
    for dim, term in enumerate(dims):
        if touched(term, kept):
            shape = list(value.shape)
            shape[dim] = int(like.shape[dim])
            value = value.new_zeros(shape).index_copy(dim, indices(term, kept), value)
    return value
