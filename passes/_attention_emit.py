"""A planned attention as one call of scaled_dot_product_attention."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from tersor.errors import RewriteError
from tersor.passes._attention_arrange import Builder
from tersor.passes._attention_layout import Axis, Layout, flat, product, resolved
from tersor.passes._attention_mask import CAUSAL, band, constant
from tersor.passes._attention_plan import Attention, Operand, Term
from tersor.passes._attention_scores import HIDDEN, Bias, Factor, Mask, dtype_of, number
from tersor.program import Program
from tersor.rewrite import insert_weight
from tersor.rewrite_values import fake, key, positional

aten = torch.ops.aten

DEEP = -1e30
"""Added to any score it gives itself, so a row masked entirely stays uniform; far from overflow when multiplied."""


@dataclass
class Emitter:
    """Builds the calls before one attention's last product.

    Attributes:
        made: masks that were built for earlier ones, by what they were built from.
        notes: what is worth telling of this one.
    """

    builder: Builder
    attention: Attention
    made: dict[Hashable, fx.Node]
    notes: list[str] = field(default_factory=list)

    @property
    def program(self) -> Program:
        """Under edit."""
        return self.builder.program

    def call(self) -> fx.Node:
        """Insert the attention; raises RewriteError with the reason why it cannot be expressed."""
        found = self.attention
        groups = tuple(atom for atom in found.heads if atom not in found.shared)
        query, scale = self._operand("queries", found.queries, (found.batch, found.heads, found.rows, found.inner))
        keys, by = self._operand("keys", found.keys, (found.batch, groups, found.columns, found.inner))
        values, _ = self._operand("values", found.values, (found.batch, groups, found.columns, found.depth))
        query = self._factors(query)
        args: tuple[Any, ...] = (query, keys, values)
        mask, causal = self._bias()
        args += (None, 0.0, True) if causal else (mask,) if mask is not None else ()
        kwargs: dict[str, Any] = {}
        total, width = scale * by * found.scores.scale, product(atom.size for atom in found.inner)
        if not isinstance(width, int) or not math.isclose(total * math.sqrt(width), 1, rel_tol=1e-6):
            kwargs["scale"] = total
        if found.shared:
            kwargs["enable_gqa"] = True
        made = self.builder.call(aten.scaled_dot_product_attention.default, *args, **kwargs)
        have = (found.batch, found.heads, found.rows, found.depth)
        return self.builder.arrange(made, have, found.result, full=True)

    def _operand(self, what: str, ways: list[Operand], want: Layout) -> tuple[fx.Node, float]:
        """The operand in the wanted layout, from where that takes the fewest views, and the number it is times."""
        dtype, scale = self.attention.dtype, ways[-1].scale
        fitting = [
            (self.builder.moves(way.node, way.layout, want) + len(ways) - place, place, way)
            for place, way in enumerate(ways)
            if way.scale == scale and dtype_of(way.node) == dtype and set(flat(way.layout)) <= set(flat(want))
        ]
        if not fitting:
            raise RewriteError(f"{what} are {dtype_of(ways[-1].node)}, and the result is {dtype}")
        chosen = min(fitting, key=lambda item: item[:2])[2]
        return self.builder.arrange(chosen.node, chosen.layout, want, full=True), scale

    def _factors(self, query: fx.Node) -> fx.Node:
        found = self.attention
        for factor, layout in found.scores.factors:
            if self._hides(factor, layout):
                continue
            have = _aligned(factor.by, layout)
            if set(flat(have)) & set(found.columns):
                raise RewriteError(f"scores are multiplied by {factor.by.name}, which differs from key to key")
            if dtype_of(factor.by) != found.dtype:
                raise RewriteError(f"scores are multiplied by {factor.by.name}, of another dtype than the queries")
            by = self.builder.arrange(factor.by, have, (found.batch, found.heads, found.rows, ()), full=False)
            query = self.builder.call(aten.div.Tensor if factor.divides else aten.mul.Tensor, query, by)
        return query

    def _hides(self, factor: Factor, layout: Layout) -> bool:
        """Whether a constant of zeros and ones sets only scores to zero that a constant bias then hides anyway."""
        value, axes = constant(self.program, factor.by), self._table(layout)
        if value is None or axes is None or factor.divides or not bool(((value == 0) | (value == 1)).all()):
            return False
        total: torch.Tensor | None = None
        for term in self.attention.scores.terms:
            table = constant(self.program, term.step.added) if isinstance(term.step, Bias) else None
            if isinstance(term.step, Bias) and table is not None:
                part = table * (term.times * term.step.times)
                total = part if total is None else total + part
        if total is None or -axes[1] > value.dim():
            return False
        kept, total = torch.broadcast_tensors(value != 0, total)
        return bool((kept | (total <= HIDDEN)).all()) and bool((kept & (total == 0)).any(axes[1]).all())

    def _bias(self) -> tuple[fx.Node | None, bool]:
        """(what is added to the scores, whether they are causal)."""
        found, terms = self.attention, self.attention.scores.terms
        masks = [as_mask(self.program, term) for term in terms]
        alone = masks[0] if len(terms) == 1 else None
        if alone is not None and self._is_causal(alone):
            return None, True
        full = [mask is None or self._leaves_some(mask) for mask in masks]
        if found.reading.zeroed is not None and not all(full):
            return self._boolean(alone), False
        if found.reading.nans and alone is not None and not all(full):
            return self._boolean(alone), False
        parts: list[tuple[fx.Node, Layout]] = []
        for term, some in zip(terms, full, strict=True):
            node = self._added(term, some, len(terms) == 1)
            layout = resolved(term.layout)
            if parts and parts[-1][1] == layout:
                parts[-1] = (self.builder.call(aten.add.Tensor, parts[-1][0], node), layout)
            else:
                parts.append((node, layout))
        arranged = [self._arranged(*part) for part in parts]
        total = arranged[0] if arranged else None
        for other in arranged[1:]:
            total = self.builder.call(aten.add.Tensor, total, other)
        return total, False

    def _arranged(self, node: fx.Node, layout: Layout) -> fx.Node:
        found = self.attention
        want = (found.batch, found.heads, found.rows, found.columns)
        have = _aligned(node, layout)
        if not set(found.columns) <= set(flat(have)):
            missing = tuple(atom for atom in found.columns if atom not in flat(have))
            have, node = (missing, *have), self._stretched(node, missing)
        if resolved(have) == resolved(want)[4 - len(have) :]:
            return node
        return self.builder.arrange(node, have, want, full=False)

    def _stretched(self, node: fx.Node, atoms: Axis) -> fx.Node:
        """Repeated along a new first axis; what adds the same to every score of a row may still mask it entirely."""
        size = self.builder.size(product(atom.size for atom in atoms))
        wide = self.builder.call(aten.unsqueeze.default, node, 0)
        return self.builder.call(aten.expand.default, wide, [size] + [-1] * fake(node).dim())

    def _boolean(self, mask: tuple[Mask, Layout] | None) -> fx.Node:
        if mask is None:
            raise RewriteError("probabilities are set to zero under more than one mask")
        zeroed = self.attention.reading.zeroed
        if zeroed is not None and zeroed != (mask[0].condition, mask[0].keep):
            raise RewriteError("probabilities are set to zero under another mask than the scores")
        node = mask[0].condition
        if dtype_of(node) != torch.bool:
            raise RewriteError("probabilities are cleared of NaN, and the mask is a bias")
        node = node if mask[0].keep else self.builder.call(aten.logical_not.default, node)
        return self._arranged(node, mask[1])

    def _is_causal(self, mask: tuple[Mask, Layout]) -> bool:
        found, axes = self.attention, self._table(mask[1])
        if (
            axes is None
            or not found.rows
            or set(flat(_aligned(mask[0].condition, mask[1])))
            != {
                *found.rows,
                *found.columns,
            }
        ):
            return False
        seen = band(self.program, mask[0].condition, *axes)
        return (seen if mask[0].keep else ~seen if seen else None) == CAUSAL

    def _table(self, layout: Layout) -> tuple[int, int] | None:
        """Axes, from the back, of rows and columns."""
        axes, found = resolved(layout), self.attention
        if found.rows not in axes or found.columns not in axes:
            return None
        return axes.index(found.rows) - len(axes), axes.index(found.columns) - len(axes)

    def _leaves_some(self, mask: tuple[Mask, Layout]) -> bool:
        """Whether no row is masked entirely, for certain."""
        condition, axes = mask[0].condition, self._table(mask[1])
        value = constant(self.program, condition)
        if value is not None and axes is not None and -axes[1] <= value.dim():
            kept = value.bool() if mask[0].keep else ~value.bool()
            return bool(kept.any(axes[1]).all())
        seen = band(self.program, condition, *axes) if axes is not None else None
        seen = seen if mask[0].keep or seen is None else ~seen
        return seen is not None and seen.low == -math.inf and seen.high >= 0

    def _added(self, term: Term, some: bool, alone: bool) -> fx.Node:
        """What is added to the scores for one term."""
        if isinstance(term.step, Mask):
            return self._additive(term.step, self._depth(term.step, term.times, some, alone))
        node = term.step.added
        node = self._in_dtype(node, term)
        times = term.times * term.step.times
        if times != 1 and node not in self.made.values():
            node = self.builder.call(aten.mul.Tensor, node, times)
        return node if term.low is None else self.builder.call(aten.clamp.default, node, term.low)

    def _in_dtype(self, node: fx.Node, term: Term) -> fx.Node:
        dtype = self.attention.dtype
        if dtype_of(node) == dtype:
            return node
        value, mask = constant(self.program, node), as_mask(self.program, term)
        if mask is not None and value is None and dtype_of(mask[0].condition) == torch.bool:
            return self._additive(mask[0], max(mask[0].fill, torch.finfo(dtype).min))
        lossless = torch.promote_types(dtype_of(node), dtype) == dtype
        lossless |= value is not None and bool((value.to(dtype).to(value) == value).all())
        if not lossless:
            raise RewriteError(f"the bias {node.name} is {dtype_of(node)}, and the queries are {dtype}")
        return self.builder.call(aten._to_copy.default, node, dtype=dtype)

    def _depth(self, mask: Mask, times: float, some: bool, alone: bool) -> float:
        """What to add to masked scores."""
        fill, dtype = mask.fill * times, self.attention.dtype
        if some and (alone or dtype == torch.float16):
            return -math.inf
        if fill == -math.inf:
            self.notes.append("a row masked entirely gives zeros, which gave NaN")
            return fill
        if dtype == torch.float16:
            raise RewriteError("in float16 no finite mask value keeps a row uniform that is masked entirely")
        return max(min(fill, DEEP) if alone else fill, torch.finfo(dtype).min)

    def _additive(self, mask: Mask, fill: float) -> fx.Node:
        """``where(condition, 0, fill)`` in the queries' dtype."""
        dtype = self.attention.dtype
        place = (mask.condition, mask.keep, fill, dtype)
        if place not in self.made:
            value = constant(self.program, mask.condition)
            if value is not None:
                hidden = ~value.bool() if mask.keep else value.bool()
                table = torch.zeros(value.shape, dtype=dtype).masked_fill(hidden, fill)
                self.made[place] = self._weight(f"{mask.condition.name}_bias", table)
            else:
                pair = [self._weight("kept_score", torch.zeros((), dtype=dtype))]
                pair.append(self._weight("hidden_score", torch.full((), fill, dtype=dtype)))
                pair = pair if mask.keep else pair[::-1]
                self.made[place] = self.builder.call(aten.where.self, mask.condition, *pair)
        return self.made[place]

    def _weight(self, name: str, value: torch.Tensor) -> fx.Node:
        return insert_weight(self.program, self.builder.root, name, value)


def as_mask(program: Program, term: Term) -> tuple[Mask, Layout] | None:
    """The mask that a term is, also where it is spelled as a bias of zeros and large negative numbers.

    Its condition is then the bias itself where no Boolean is at hand.
    """
    if isinstance(term.step, Mask):
        return term.step, term.layout
    node, times = term.step.added, term.times * term.step.times
    value = constant(program, node)
    if value is not None and value.dtype.is_floating_point:
        hidden = value * times <= HIDDEN
        simple = bool(hidden.any()) and bool((hidden | (value == 0)).all())
        return (Mask(node, False, float((value * times).min())), term.layout) if simple else None
    while key(node) in ("expand", "_to_copy"):
        node = positional(node)[0]
    if key(node) == "where":
        first, second = (number(program, item) for item in positional(node)[1:3])
        for kept, fill, keep in ((first, second, True), (second, first, False)):
            if kept == 0 and fill is not None and fill * times <= HIDDEN:
                return Mask(positional(node)[0], keep, fill * times), term.layout
    if key(node) == "masked_fill" and number(program, positional(node)[0]) == 0:
        fill = number(program, positional(node)[2])
        if fill is not None and fill * times <= HIDDEN:
            return Mask(positional(node)[1], False, fill * times), term.layout
    if key(node) == "triu" and (number(program, positional(node)[0]) or 0) * times <= HIDDEN:
        return Mask(node, False, float(number(program, positional(node)[0]) or 0) * times), term.layout
    return None


def _aligned(node: fx.Node, layout: Layout) -> Layout:
    """The layout of a tensor that broadcasts to one of this layout."""
    shape = fake(node).shape
    kept = layout[len(layout) - len(shape) :]
    return resolved(tuple(() if size == 1 else axis for size, axis in zip(shape, kept, strict=True)))
