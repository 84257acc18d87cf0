"""A method fitted to one attention: a function, its constants, and the heads that it is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersor.attention.residual import with_residual
from tersor.attention.site import as_bias

PER_HEAD = frozenset({"index", "asked", "known"})
"""Constants whose first axis is the head."""


@dataclass(frozen=True, eq=False)
class Form:
    """``function(query, key, value, bias, **settings, **constants)`` stands for an attention of all its heads.

    Attributes:
        residual: what is added to its result, [H, L or 1, V].
    """

    function: Callable[..., Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    residual: Tensor | None = None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """[B, H, L, E], [B, H or fewer, S, ...] to [B, H, L, V]."""
        made = self.function(query, key, value, bias, **self.settings, **self.constants)
        return made if self.residual is None else with_residual(made, self.residual)

    def only(self, heads: Sequence[int]) -> Form:
        """The form of some of the heads."""
        index = torch.tensor(list(heads))
        constants = {
            name: value[index.to(value.device)] if name in PER_HEAD else value for name, value in self.constants.items()
        }
        residual = None if self.residual is None else self.residual[index.to(self.residual.device)]
        return replace(self, constants=constants, residual=residual)

    def to(self, dtype: torch.dtype) -> Form:
        """The form with its floating-point constants in another dtype."""
        return self.holding({name: x.to(dtype) if x.is_floating_point() else x for name, x in self.tensors.items()})

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that it holds, by name."""
        held = dict(self.constants)
        return held if self.residual is None else {**held, "residual": self.residual}

    def holding(self, tensors: Mapping[str, Tensor]) -> Form:
        """The same with other tensors in the places of `tensors`."""
        constants = {name: tensors[name] for name in self.constants}
        return replace(self, constants=constants, residual=tensors.get("residual"))


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, *, causal: bool = False,
    scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Attention as it is.

    >>> dense_attention(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 3)).flatten().tolist()
    [1.0, 1.0, 1.0]
    """
    shared = {"enable_gqa": True} if key.shape[1] != query.shape[1] else {}
    return F.scaled_dot_product_attention(query, key, value, bias, is_causal=causal, scale=scale, **shared)


class Mixed(nn.Module):
    """Some heads in one form, some in another.

    Shapes: query [B, H, L, E], key and value [B, H or fewer, S, ...], mask as scaled_dot_product_attention takes it;
    result [B, H, L, V].
    """

    def __init__(self, parts: Sequence[tuple[Sequence[int], Form]]) -> None:
        super().__init__()
        self.forms = [form.only(heads) if len(parts) > 1 else form for heads, form in parts]
        self.heads = [list(heads) for heads, _ in parts]
        for place, form in enumerate(self.forms):
            for name, value in form.tensors.items():
                self.register_buffer(f"{name}_{place}", value)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute each group of heads, and put them back in order."""
        bias = as_bias(mask, query.dtype)
        made = [self._part(place, query, key, value, bias) for place in range(len(self.forms))]
        if len(made) == 1:
            return made[0]
        order = [head for heads in self.heads for head in heads]
        joined = torch.cat(made, 1)
        if order == sorted(order):
            return joined
        return joined.index_select(1, torch.tensor(order, device=query.device).argsort())

    def _part(self, place: int, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        held = {name: getattr(self, f"{name}_{place}") for name in self.forms[place].tensors}
        form, heads = self.forms[place].holding(held), self.heads[place]
        if len(self.forms) == 1:
            return form(query, key, value, bias)
        groups = query.shape[1] // key.shape[1]
        below = [head // groups for head in heads]
        if bias is not None and bias.shape[1] != 1:
            bias = _heads(bias, heads)
        return form(_heads(query, heads), _heads(key, below), _heads(value, below), bias)


def _heads(x: Tensor, heads: Sequence[int]) -> Tensor:
    """Some heads of [B, H, L, E]; neighbours as a slice."""
    start, end = heads[0], heads[-1] + 1
    if list(heads) == list(range(start, end)):
        return x[:, start:end]
    return x.index_select(1, torch.tensor(heads, device=x.device))
