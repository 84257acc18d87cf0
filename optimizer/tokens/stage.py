"""A reduced sequence in a graph: its nodes, and how other tensors are brought to its tokens or back to all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from tersor.errors import RewriteError
from tersor.program import Program
from tersor.rewrite import insert_call
from tersor.rewrite_values import fake, known
from tersor.tokens.axis import Run
from tersor.tokens.graph import insert
from tersor.tokens.matrix import ends_of, gathered


@dataclass
class Stage:
    """The tokens that a part of the graph works on.

    Attributes:
        full: a node (samples, tokens, features) with all tokens.
        x: the node that this stage begins with.
        place: [B, T] position here of every token of ``full``.
        kept: [B, K] position in ``full`` of every token here.
        size: [B, K, 1] how many tokens each one stands for, 0 for padding; None where all are single.
        padded: whether sizes of 0 occur, which stand for a padding mask.
        proportional: whether attention is to weigh keys by their size.
        ends: so many of the first and of the last tokens are here, for all samples; None where samples differ.
        bias: what is added to scores for sizes, once asked for.
        sides: tensors of positions brought here, by name and layout.
    """

    full: fx.Node
    x: fx.Node
    place: fx.Node
    kept: fx.Node
    size: fx.Node | None
    padded: bool
    proportional: bool
    ends: tuple[int, int] | None = None
    bias: fx.Node | None = None
    sides: dict[Any, fx.Node] = field(default_factory=dict)

    def count(self) -> int | None:
        """How many tokens there are, None where that differs from call to call."""
        return sum(self.ends) if self.ends is not None else known(fake(self.kept).shape[1])

    def counted(self, before: fx.Node) -> Any:
        """The number of tokens, or a node that computes it."""
        found = self.count()
        return found if found is not None else insert_call(before, torch.ops.aten.sym_size.int, [self.kept, 1])

    def key_bias(self, program: Program, before: fx.Node) -> fx.Node | None:
        """[B, 1, 1, K] to add to scores: log of the sizes (ToMe, arXiv:2210.09461, equation 1), padding hidden."""
        if self.size is None or not (self.proportional or self.padded):
            return None
        if self.bias is None:
            weigh = self.proportional

            def bias(size: Tensor) -> Tensor:
                flat = size[:, None, None, :, 0]
                value = flat.clamp(min=1e-6).log() if weigh else torch.zeros_like(flat)
                return torch.where(flat > 0, value, torch.finfo(flat.dtype).min) if self.padded else value

            self.bias = insert(program, before, bias, self.size)
        return self.bias


def restore(program: Program, before: fx.Node, stage: Stage, node: fx.Node, run: Run, batched: bool) -> fx.Node:
    """All tokens again: each has what the token has that it went into; RewriteError where they do not line up."""
    if not batched or run.dim == 0 or run.others:
        raise RewriteError(f"tokens of {node.name} cannot be put back: samples and tokens share a dimension")

    def back(x: Tensor, place: Tensor) -> Tensor:
        index = _stretched(place, run, x.shape[run.dim] - run.after if run.after else 0)
        return moved(gathered(moved(x, run.dim, 1), index), 1, run.dim)

    made = insert(program, before, back, node, stage.place)
    assert isinstance(made, fx.Node)
    return made


def bring(
    program: Program, before: fx.Node, stage: Stage, node: fx.Node, run: Run, batched: bool, rank: int
) -> fx.Node:
    """A tensor of positions (rotary tables, masks of tokens) with the rows of the tokens that are here.

    Args:
        batched: whether its first dimension is that of samples; else it gets one, so that it has ``rank`` dimensions.
    """
    place = (node.name, batched, rank)
    if place in stage.sides:
        return stage.sides[place]
    if run.others or run.after or (stage.ends is not None and not run.whole):
        raise RewriteError(f"rows of {node.name} for the tokens that are left cannot be told apart")
    if stage.ends is not None:
        first, last = stage.ends
        stage.sides[place] = insert(program, before, partial(ends_of, dim=run.dim, first=first, last=last), node)
        return stage.sides[place]
    lead = rank - fake(node).dim()

    def taken(x: Tensor, kept: Tensor) -> Tensor:
        index = _stretched(kept, run, 0)
        if batched:
            return moved(gathered(moved(x, run.dim, 1), index), 1, run.dim)
        rows = moved(x.reshape([1] * lead + list(x.shape)).squeeze(0), run.dim + lead - 1, 0)
        chosen = rows.index_select(0, index.reshape(-1)).reshape([*index.shape, *rows.shape[1:]])
        return moved(chosen, 1, run.dim + lead)

    stage.sides[place] = insert(program, before, taken, node, stage.kept)
    return stage.sides[place]


def _stretched(index: Tensor, run: Run, behind: Any) -> Tensor:
    """Indices of tokens as indices into a dimension that lacks some of them and has other positions around them."""
    index = index[:, run.start :] - run.start + run.before if run.start or run.before else index
    if run.before:
        front = torch.arange(run.before, device=index.device).expand(index.shape[0], run.before)
        index = torch.cat([front, index], dim=1)
    if run.after:
        back = torch.arange(run.after, device=index.device) + behind
        index = torch.cat([index, back.expand(index.shape[0], run.after)], dim=1)
    return index


def moved(x: Tensor, source: int, target: int) -> Tensor:
    """One axis moved, as ``permute``: torch.onnx.export knows no ``movedim``.

    >>> moved(torch.ones(2, 3, 4), 2, 0).shape
    torch.Size([4, 2, 3])
    """
    if source == target:
        return x
    order = [axis for axis in range(x.dim()) if axis != source]
    order.insert(target, source)
    return x.permute(order)
