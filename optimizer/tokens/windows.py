"""Whole windows that skip attention: those with the least activation pass unchanged (SparseViT, arXiv:2303.17605)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, fx

from tersor.axes import Axes
from tersor.axes.elementwise import is_elementwise
from tersor.axes.terms import Product, Term, resolve, size
from tersor.errors import RewriteError
from tersor.program import Program
from tersor.rewrite import annotate, erase_unused
from tersor.rewrite_arguments import set_argument
from tersor.rewrite_values import arguments, fake, key, tensor
from tersor.tokens.attend import is_attention
from tersor.tokens.carry import EVENLY
from tersor.tokens.graph import insert
from tersor.tokens.matrix import rows


@dataclass(frozen=True)
class Windowed:
    """An attention inside windows.

    Attributes:
        rows: the dimension of samples times windows.
        count: windows of each sample.
        enter: the first node (samples times windows, places, features) that it is made of.
    """

    attention: fx.Node
    rows: Term
    count: int
    enter: fx.Node


def windowed(axes: Axes, attention: fx.Node) -> Windowed | str:
    """The windows of an attention, or why it has none."""
    dims = axes.values.get(arguments(attention)["query"].name)
    if not isinstance(dims, tuple) or len(dims) != 4:
        return "its operands are not (windows, heads, places, features)"
    batch = resolve(dims[0])
    factors = batch.factors if isinstance(batch, Product) else (batch,)
    counts = [size(item) for item in factors[1:]]
    if not isinstance(batch, Product) or not all(isinstance(item, int) for item in counts):
        return "it runs over whole samples, not inside windows"
    enter = _enter(axes, attention, batch)
    return Windowed(attention, batch, math.prod(counts), enter) if enter is not None else "its windows are not cut out"


def _enter(axes: Axes, attention: fx.Node, batch: Term) -> fx.Node | None:
    """The first ancestor that lies in windows."""
    found, waiting, seen = [], list(attention.all_input_nodes[:3]), {attention}
    while waiting:
        node = waiting.pop()
        if node in seen or is_attention(node):
            continue
        seen.add(node)
        dims = axes.values.get(node.name)
        if isinstance(dims, tuple) and len(dims) == 3 and resolve(dims[0]) == batch and node.op == "call_function":
            found.append(node)
        if _rows_dim(dims, batch) is not None or isinstance(dims, list):
            waiting += node.all_input_nodes
    order = {node: place for place, node in enumerate(attention.graph.nodes)}
    return min(found, key=order.__getitem__) if found else None


def _rows_dim(dims: object, batch: Term) -> int | None:
    """Which dimension is that of samples times windows."""
    if not isinstance(dims, tuple):
        return None
    at = [place for place, term in enumerate(dims) if resolve(term) == batch]
    return at[0] if len(at) == 1 else None


def strongest(x: Tensor, windows: int, kept: int) -> Tensor:
    """Flat indices [B * kept], in order, of the windows whose features are longest on average.

    Args:
        x: [B * windows, places, features].
    """
    score = x.norm(dim=-1).mean(-1).reshape(-1, windows)
    return rows(score.topk(kept, dim=1).indices.sort(dim=1).values, windows)


def skip(program: Program, axes: Axes, site: Windowed, kept: int) -> None:
    """Let all but ``kept`` windows of each sample pass one attention, in place; RewriteError where that cannot be."""
    enter, readers = site.enter, list(site.enter.users)
    index = insert(program, enter.next, partial(strongest, windows=site.count, kept=kept), enter)
    some = insert(program, _behind(index), lambda x, at: x.index_select(0, at), enter, index)
    for user in readers:
        user.replace_input_with(enter, some)
    walk = _Walk(program, axes, site, index, {some.name})
    axes.values[some.name] = axes.values[enter.name]
    nodes = list(program.graph.nodes)
    for node in nodes[nodes.index(some) + 1 :]:
        if any(item.name in walk.reduced for item in node.all_input_nodes):
            walk.visit(node)
    erase_unused(program)
    program.changed()


def _behind(node: fx.Node) -> fx.Node:
    return node.next


@dataclass
class _Walk:
    """Everything between where windows are cut out and where they are put together."""

    program: Program
    axes: Axes
    site: Windowed
    index: fx.Node
    reduced: set[str]
    back: dict[str, fx.Node] = field(default_factory=dict)

    def visit(self, node: fx.Node) -> None:
        """Adapt a node, or give it all windows again."""
        dims = self.axes.values.get(node.name)
        each = dims if isinstance(dims, list) else [dims]
        places = [_rows_dim(item, self.site.rows) for item in each]
        alike = key(node) in EVENLY or is_elementwise(node) or is_attention(node)
        if not alike or any(place is None for place in places) or node.op == "output":
            self._put_back(node)
            return
        self._join(node)
        for name in ("size", "shape"):
            sizes = arguments(node).get(name)
            if isinstance(sizes, list | tuple) and key(node) in ("reshape", "view", "_unsafe_view", "expand"):
                self._resize(node, name, list(sizes), places[0])
        annotate(node, node)
        self.reduced.add(node.name)

    def _resize(self, node: fx.Node, name: str, sizes: list[object], dim: int | None) -> None:
        assert dim is not None
        if sizes[dim] == -1:
            return
        if -1 in sizes:
            raise RewriteError(f"{node.name} states the number of windows, and leaves another size open")
        sizes[dim] = -1
        set_argument(node, name, sizes)

    def _join(self, node: fx.Node) -> None:
        """Masks and biases of each window: those of the windows that are left."""
        for item in node.all_input_nodes:
            dim = _rows_dim(self.axes.values.get(item.name), self.site.rows)
            if item.name in self.reduced or tensor(item) is None or dim is None:
                continue
            made = insert(self.program, node, lambda x, at, dim=dim: x.index_select(dim, at), item, self.index)
            node.replace_input_with(item, made)

    def _put_back(self, node: fx.Node) -> None:
        for item in node.all_input_nodes:
            if item.name not in self.reduced:
                continue
            if _rows_dim(self.axes.values[item.name], self.site.rows) != 0 or fake(item).dim() < 2:
                raise RewriteError(f"windows of {item.name} cannot be put back")
            if item.name not in self.back:
                self.back[item.name] = insert(self.program, node, _among_zeros, item, self.index, self.site.enter)
            node.replace_input_with(item, self.back[item.name])


def _among_zeros(some: Tensor, index: Tensor, whole: Tensor) -> Tensor:
    """All windows: those that were computed, and zeros, which add nothing to a residual stream."""
    empty = some.new_zeros([whole.shape[0], *some.shape[1:]])
    return empty.index_put([index], some)
