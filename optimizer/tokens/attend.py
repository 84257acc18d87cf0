"""Attention over reduced tokens: sizes weigh keys, masks and position biases follow, or the reason why they cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from tersor.errors import RewriteError
from tersor.interface import Flat
from tersor.program import Program
from tersor.rewrite import insert_call
from tersor.rewrite_arguments import set_argument
from tersor.rewrite_values import arguments, fake, key
from tersor.tokens.axis import Apart, Run
from tersor.tokens.carry import Carrier
from tersor.tokens.graph import insert
from tersor.tokens.matrix import gathered
from tersor.tokens.stage import Stage

HIDDEN = -1e3
"""Scores to which so little or less is added are hidden."""

aten = torch.ops.aten


@dataclass(frozen=True)
class Masks:
    """What is known of the masks of a program's attention, by the name of the mask's node.

    Attributes:
        padding: masks that hide the same keys from every query, as seen on the calibration inputs.
        why: for other masks why tokens cannot be merged under them; empty for biases by position.
    """

    padding: frozenset[str]
    why: dict[str, str]

    @property
    def padded(self) -> bool:
        """Whether any attention has a padding mask."""
        return bool(self.padding)


def masks(program: Program, nodes: Sequence[fx.Node], inputs: Sequence[Flat]) -> Masks:
    """Judge the masks of attention nodes by their values on calibration inputs."""
    found = {item.name: item for node in nodes if isinstance(item := arguments(node)["attn_mask"], fx.Node)}
    seen: dict[str, list[Tensor]] = {name: [] for name in found}
    if found:
        from tersor.calibrate import observe

        observe(program, {name: values.append for name, values in seen.items()}, inputs)
    padding, why = set(), {}
    for name, values in seen.items():
        if all(map(_hides_keys, values)):
            padding.add(name)
        else:
            why[name] = _refusal(values)
    return Masks(frozenset(padding), why)


def visible(mask: Tensor) -> Tensor:
    """Where a mask, Boolean or added to scores, lets keys be seen."""
    return mask if mask.dtype == torch.bool else mask > HIDDEN


def _hides_keys(mask: Tensor) -> bool:
    same = bool((mask == mask[..., :1, :]).all()) and (mask.dim() < 4 or bool((mask == mask[:, :1]).all()))
    return same and (mask.dtype == torch.bool or bool(((mask == 0) | (mask <= HIDDEN)).all()))


def _refusal(values: Sequence[Tensor]) -> str:
    if all(bool(visible(value).all()) for value in values) and values[0].dtype != torch.bool:
        return ""
    return "its mask hides other keys from each query, which merging would mix"


def attend(walk: Carrier, node: fx.Node, known: Masks) -> None:
    """Adapt one attention to reduced queries or keys."""
    given = arguments(node)
    query, keys, values = (given[name] for name in ("query", "key", "value"))
    stage = walk.stage_of(node)
    sides = [item.name in walk.stages for item in (query, keys, values)]
    runs = [walk.run(item) for item in (query, keys, values)]
    if sides[1] != sides[2] or any(run is not None and run.dim != fake(query).dim() - 2 for run in runs):
        raise Apart("it attends across tokens that are not in a row")
    crossed = sides[0] != sides[1]
    if given["is_causal"] and (stage.size is not None or crossed):
        raise RewriteError("positions that see only earlier ones cannot be merged", "prune tokens instead")
    mask = _mask(walk, node, stage, given["attn_mask"], known, crossed)
    bias = stage.key_bias(walk.program, node) if sides[1] else None
    bias = _padded(walk.program, node, bias, runs[1])
    total = bias if mask is None else mask if bias is None else insert_call(node, aten.add.Tensor, [mask, bias])
    set_argument(node, "attn_mask", total)
    walk.settle(node, stage if sides[0] else None)


def _padded(program: Program, node: fx.Node, bias: fx.Node | None, run: Run | None) -> fx.Node | None:
    """The bias of sizes for keys that lack some tokens, or have others in front that stand for themselves."""
    if bias is None or run is None or run.whole:
        return bias

    def padded(value: Tensor) -> Tensor:
        value = value[..., run.start :]
        front = torch.zeros_like(value[..., :1]).expand(-1, -1, -1, run.before)
        back = torch.zeros_like(value[..., :1]).expand(-1, -1, -1, run.after)
        return torch.cat([front, value, back], dim=-1)

    made = insert(program, node, padded, bias)
    assert isinstance(made, fx.Node)
    return made


def _mask(walk: Carrier, node: fx.Node, stage: Stage, mask: Any, known: Masks, crossed: bool) -> fx.Node | None:
    """What is left to add to the scores beside sizes."""
    if not isinstance(mask, fx.Node):
        return None
    if mask.name in known.padding and stage.padded:
        return None
    if not walk.tokens.holds(walk.axes, mask):
        return mask
    why = known.why.get(mask.name, "its mask hides keys, and sizes do not tell which")
    if why and stage.size is not None:
        raise RewriteError(why)
    table = stage.sides.get(("bias", mask.name, crossed))
    if table is None:
        table = _followed(walk, node, stage, mask, crossed)
        stage.sides["bias", mask.name, crossed] = table
    return table


def _followed(walk: Carrier, node: fx.Node, stage: Stage, mask: fx.Node, crossed: bool) -> fx.Node:
    """The rows and columns of a mask for the queries and keys that are left."""
    dims = walk.axes.values[mask.name]
    if not isinstance(dims, tuple) or len(dims) != 4:
        raise RewriteError(f"the mask {mask.name} is not (samples, heads, queries, keys)")
    rows, columns = (walk.tokens.find(term, place) for place, term in enumerate(dims[-2:]))
    if any(run is not None and not run.whole for run in (rows, columns)):
        raise RewriteError(f"the mask {mask.name} cannot be followed to the tokens that are left")
    row, column = rows is not None, columns is not None and not crossed
    made = insert(walk.program, node, partial(_looked_up, row=row, column=column), mask, stage.kept)
    assert isinstance(made, fx.Node)
    return made


def _looked_up(bias: Tensor, kept: Tensor, row: bool, column: bool) -> Tensor:
    """Rows and columns [B, H, K, K] of a bias [1 or B, H, T, T] by position, or only one of them."""
    _, heads, rows, columns = bias.shape
    table = bias.expand(kept.shape[0], heads, rows, columns).permute(0, 2, 3, 1)
    if row:
        table = gathered(table, kept)
    table = table.transpose(1, 2)
    if column:
        table = gathered(table, kept)
    return table.permute(0, 3, 2, 1)


def scale_of(node: fx.Node) -> float:
    """The number that an attention multiplies its scores with."""
    given = arguments(node)
    scale = given["scale"]
    return float(scale) if scale is not None else 1 / math.sqrt(int(fake(given["query"]).shape[-1]))


def is_attention(node: Any) -> bool:
    """Whether a node is attention."""
    return key(node) == "scaled_dot_product_attention"
