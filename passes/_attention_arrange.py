"""Tensors whose axes are products of atoms, put into another layout by views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from tersor.errors import RewriteError
from tersor.passes._attention_layout import Atom, Axis, Layout, flat, product, resolved, sizes_of
from tersor.program import Program, Size
from tersor.rewrite import insert_call
from tersor.rewrite_values import fake, tensor

aten = torch.ops.aten


@dataclass
class Builder:
    """Inserts views before a node.

    Attributes:
        sources: tensors whose sizes may be read, before all inputs of the program.
    """

    program: Program
    root: fx.Node
    sources: list[fx.Node] = field(default_factory=list)

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Insert a call before the root."""
        return insert_call(self.root, target, args, kwargs)

    def size(self, size: Size) -> Any:
        """A size as a number, or the node that computes it; raises RewriteError where no tensor has it."""
        if isinstance(size, int):
            return size
        for node in (*self.sources, *self.program.placeholders):
            for axis, found in enumerate(sizes_of(node) if tensor(node) is not None else ()):
                if found == size:
                    return self.call(aten.sym_size.int, node, axis)
        raise RewriteError(f"no tensor before the attention has an axis of size {size}")

    def reshape(self, node: fx.Node, sizes: Sequence[Size]) -> fx.Node:
        """The node in another shape of as many elements."""
        if tuple(sizes) == sizes_of(node):
            return node
        unknown = [size for size in sizes if not isinstance(size, int)]
        wanted = [-1 if size in unknown and len(unknown) == 1 else self.size(size) for size in sizes]
        return self.call(aten.reshape.default, node, wanted)

    def arrange(self, node: fx.Node, have: Layout, want: Layout, full: bool) -> fx.Node:
        """The node with its atoms in another layout.

        Atoms that it lacks are repeated, ``full`` everywhere, else only in axes where it has others.
        """
        have, want = resolved(have), resolved(want)
        held = set(flat(have))
        if not full:
            want = tuple(axis if held.intersection(axis) else () for axis in want)
        if have == want and fake(node).dim() == len(want):
            return node
        missing = [atom for atom in flat(want) if atom not in held]
        if flat(have) == flat(want):
            return self.reshape(node, [product(atom.size for atom in axis) for axis in want])
        order = [atom for atom in flat(want) if atom in held]
        runs = _runs(flat(have), order)
        node = self.reshape(node, [product(atom.size for atom in run) for run in runs])
        places = [runs.index(run) for run in sorted(runs, key=lambda run: order.index(run[0]))]
        if places != sorted(places):
            node = self.call(aten.permute.default, node, places)
        return self._merged(node, [runs[place] for place in places], want, missing)

    def moves(self, node: fx.Node, have: Layout, want: Layout) -> int:
        """How many views `arrange` inserts to get a full layout."""
        have, want = resolved(have), resolved(want)
        if have == want and fake(node).dim() == len(want):
            return 0
        if flat(have) == flat(want):
            return 1
        held = [atom for atom in flat(want) if atom in flat(have)]
        runs = _runs(flat(have), held)
        shape = tuple(product(atom.size for atom in run) for run in runs)
        return 2 + (shape != sizes_of(node)) + 2 * (len(held) < len(flat(want)))

    def _merged(self, node: fx.Node, runs: list[Axis], want: Layout, missing: list[Atom]) -> fx.Node:
        if missing:
            starts = {run[0]: product(atom.size for atom in run) for run in runs}
            cells = [atom for atom in flat(want) if atom in starts or atom in missing]
            node = self.reshape(node, [starts.get(atom, 1) for atom in cells])
            stretched = [-1 if atom in starts else self.size(atom.size) for atom in cells]
            node = self.call(aten.expand.default, node, stretched)
        return self.reshape(node, [product(atom.size for atom in axis) for axis in want])


def _runs(have: Axis, want: Sequence[Atom]) -> list[Axis]:
    """Atoms that follow each other in both orders, together."""
    runs: list[list[Atom]] = []
    for atom in have:
        after = want.index(atom) > 0 and bool(runs) and want[want.index(atom) - 1] is runs[-1][-1]
        if after:
            runs[-1].append(atom)
        else:
            runs.append([atom])
    return [tuple(run) for run in runs]
