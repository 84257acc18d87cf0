"""One attention of a program as methods that could stand for it see it, and calls of it on calibration data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, fx

from tersor.attention.blocks import hidden
from tersor.interface import Flat
from tersor.program import Program
from tersor.rewrite_values import arguments, fake, is_floating, known, same_size, tensor

Call: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Query, key, value and bias of one call, in floating point, the bias with four axes."""

MEMORY = 1 << 29
"""Bytes of calls that are held at a time."""

SAMPLES = 2
"""Elements of a batch that are kept of each call."""


@dataclass(frozen=True)
class Site:
    """Shapes and masks of a scaled_dot_product_attention.

    Attributes:
        batch, heads, shared, rows, columns, width, depth: sizes of query [batch, heads, rows, width], key [batch,
            shared, columns, width] and value [batch, shared, columns, depth] at the example.
        causal: its own mask.
        scale: of the scores, None where it is width^-0.5.
        mask: "none", "keys" where all rows have the same one, or "rows".
        mask_heads, mask_batch: whether that differs between heads, between samples.
        fixed: whether rows and columns are the same in every call.
        even: whether the batch is fixed and even.
    """

    batch: int
    heads: int
    shared: int
    rows: int
    columns: int
    width: int
    depth: int
    causal: bool = False
    scale: float | None = None
    mask: Literal["none", "keys", "rows"] = "none"
    mask_heads: bool = False
    mask_batch: bool = False
    fixed: bool = True
    even: bool = False
    dtype: torch.dtype = torch.float32

    def at(self, calls: Sequence[Call]) -> Site:
        """The site at the longest of some calls."""
        if not calls:
            return self
        rows, columns = max((call[0].shape[2], call[1].shape[2]) for call in calls)
        return replace(self, rows=rows, columns=columns)


def describe(node: fx.Node) -> Site | str:
    """The attention at a node, or why nothing can stand for it."""
    given = arguments(node)
    parts = [given[name] for name in ("query", "key", "value")]
    query, key, value = (tensor(part) for part in parts)
    if query is None or key is None or value is None or not all(map(is_floating, parts)):
        return "its operands are no floating-point tensors"
    if not query.dim() == key.dim() == value.dim() == 4:
        return f"its query has {query.dim()} axes, wanted 4: batch, heads, tokens, width"
    if given["dropout_p"]:
        return f"it drops {given['dropout_p']:g} of its weights at random"
    heads, shared = known(query.shape[1]), known(key.shape[1])
    width, depth = known(query.shape[3]), known(value.shape[3])
    if heads is None or shared is None or width is None or depth is None:
        return "its number of heads or their size differs from call to call"
    if heads % shared:
        return f"{heads} heads cannot share {shared} heads of keys"
    made = Site(
        _hint(query.shape[0]), heads, shared, _hint(query.shape[2]), _hint(key.shape[2]), width, depth,
        bool(given["is_causal"]), given["scale"],
        fixed=known(query.shape[2]) is not None and known(key.shape[2]) is not None,
        even=(known(query.shape[0]) or 1) % 2 == 0, dtype=query.dtype,
    )  # fmt: skip
    return _with_mask(made, given["attn_mask"], key)


def _with_mask(site: Site, mask: Any, key: Tensor) -> Site | str:
    if mask is None:
        return site
    shape = [1] * (4 - fake(mask).dim()) + list(fake(mask).shape)
    if not same_size(shape[3], key.shape[2]):
        return f"its mask of shape {list(fake(mask).shape)} has no entry for each key"
    if known(shape[2]) == 1 and known(shape[1]) == 1:
        return replace(site, mask="keys", mask_batch=known(shape[0]) != 1)
    return replace(site, mask="rows", mask_heads=known(shape[1]) != 1, mask_batch=known(shape[0]) != 1)


def _hint(size: Any) -> int:
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


def as_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask as what is added to the scores: finite, with four axes.

    >>> as_bias(torch.tensor([True, False]), torch.float16).flatten().tolist()
    [0.0, -16376.0]
    """
    if mask is None:
        return None
    low = hidden(dtype)
    mask = mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))
    if mask.dtype == torch.bool:
        return torch.where(mask, 0.0, low).to(dtype)
    return mask.to(dtype).clamp(min=low)


def collect(
    program: Program, nodes: Sequence[fx.Node], inputs: Sequence[Flat], limit: int = MEMORY
) -> Iterator[tuple[fx.Node, list[Call]]]:
    """The calls of each attention on calibration inputs; the program runs again for every ``limit`` bytes of them."""
    for group in _groups(nodes, len(inputs), limit):
        seen: dict[str, list[Call]] = {node.name: [] for node in group}
        watcher = _Watcher(program, seen)
        with torch.no_grad():
            for flat in inputs:
                watcher.run(*flat)
        for node in group:
            yield node, seen[node.name]


def _groups(nodes: Sequence[fx.Node], inputs: int, limit: int) -> list[list[fx.Node]]:
    groups: list[list[fx.Node]] = []
    room = 0.0
    for node in nodes:
        parts = [fake(arguments(node)[name]).shape for name in ("query", "key", "value")]
        size = 4.0 * inputs * SAMPLES * sum(_hint(s[1]) * _hint(s[2]) * _hint(s[3]) for s in parts)
        if not groups or size > room:
            groups.append([])
            room = float(limit)
        groups[-1].append(node)
        room -= size
    return groups


class _Watcher(fx.Interpreter):
    """Keeps what attentions are given."""

    def __init__(self, program: Program, seen: Mapping[str, list[Call]]) -> None:
        super().__init__(program.module(), garbage_collect_values=True)
        self.seen = seen

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self.seen:
            given = arguments(n)
            query, key, value, mask = (
                self.env[given[name]] if isinstance(given[name], fx.Node) else None
                for name in ("query", "key", "value", "attn_mask")
            )
            self.seen[n.name].append(_call(query, key, value, mask))
        return super().run_node(n)


def _call(query: Any, key: Any, value: Any, mask: Any) -> Call:
    bias = as_bias(mask, torch.float32)
    if bias is not None and bias.shape[0] > 1:
        bias = bias[:SAMPLES]
    query, key, value = (x[:SAMPLES].detach().float().contiguous() for x in (query, key, value))
    return query, key, value, bias
