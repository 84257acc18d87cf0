"""Which method stands for which head of an attention, by its error on calibration data and its predicted time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tersor.attention.form import Form, dense_attention
from tersor.attention.methods import Method, described
from tersor.attention.residual import mean_residual
from tersor.attention.site import Call, Site
from tersor.attention.worth import dense_seconds, seconds
from tersor.target import Target

GROUPS = 3
"""Methods that the heads of one attention have at most: each is a part of the graph of its own."""


@dataclass(frozen=True)
class Limits:
    """What is asked of a substitution.

    Attributes:
        error: share of a head's energy that may be lost.
        gain: predicted time of the attention before by that after.
        heads: whether heads may differ.
        correct: whether to add what a method misses on average.
    """

    error: float
    gain: float
    heads: bool = True
    correct: bool = True


@dataclass(frozen=True, eq=False)
class Option:
    """A fitted method, the share of each head's energy that it loses, and its predicted time for all heads."""

    name: str
    form: Form
    lost: Tensor
    seconds: float


@dataclass(frozen=True, eq=False)
class Choice:
    """What stands for an attention.

    Attributes:
        parts: heads, and the form for them.
        lost: share of the energy of all heads.
        before, after: predicted seconds.
        text: for the report.
    """

    parts: tuple[tuple[tuple[int, ...], Form], ...]
    lost: float
    before: float
    after: float
    text: str


@dataclass
class Predictor:
    """Predicted times, remembered: they depend on shapes alone."""

    target: Target
    backend: str
    known: dict[tuple[Site, str], float] = field(default_factory=dict)

    def method(self, site: Site, method: Method) -> float:
        """Of one method for all heads."""
        place = (site, described(method))
        if place not in self.known:
            form = method.form(site, (), 0)
            self.known[place] = seconds([(range(site.heads), form)], site, self.target, self.backend)
        return self.known[place]

    def dense(self, site: Site) -> float:
        """Of the attention."""
        if (site, "") not in self.known:
            self.known[site, ""] = dense_seconds(site, self.target, self.backend)
        return self.known[site, ""]

    def mixed(self, site: Site, parts: Sequence[tuple[Sequence[int], Form]], text: str) -> float:
        """Of several methods."""
        if (site, text) not in self.known:
            self.known[site, text] = seconds(parts, site, self.target, self.backend)
        return self.known[site, text]


def choose(
    site: Site, calls: Sequence[Call], methods: Sequence[Method], limits: Limits, predictor: Predictor, seed: int = 0
) -> Choice | str:
    """The fastest combination whose error is within the limit for each head, or why there is none.

    Methods are fitted on every other call and judged on the others, where there is more than one.
    """
    before = predictor.dense(site)
    allowed: list[tuple[Method, float]] = []
    reasons: list[tuple[str, float]] = []
    for method in methods:
        reason = method.objection(site)
        after = 0.0 if reason else predictor.method(site, method)
        if reason:
            reasons.append((f"{described(method)}: {reason}", 0.0))
        elif after * limits.gain > before:
            reasons.append((f"{described(method)} is predicted {before / after:.2f} times as fast", before / after))
        else:
            allowed.append((method, after))
    if not allowed:
        return _refusal(site, reasons)
    options = [_option(site, calls, method, after, limits, seed) for method, after in allowed]
    fitting = [option for option in options if bool((option.lost <= limits.error).any())]
    if not fitting:
        best = min(options, key=lambda option: float(option.lost.mean()))
        lost = f"{float(best.lost.min()):.2g} to {float(best.lost.max()):.2g}"
        return f"{best.name} loses {lost} of each head's energy, more than {limits.error:g}, and others lose more"
    return _best(site, calls, fitting, limits, predictor, before)


def _refusal(site: Site, reasons: Sequence[tuple[str, float]]) -> str:
    """The method that comes nearest to paying, or why none can be."""
    if not reasons:
        return "no method was named"
    text, speed = max(reasons, key=lambda reason: reason[1])
    if speed:
        return f"nothing pays at {site.columns} keys: {text}, and others are slower or do not fit"
    return "; ".join(dict.fromkeys(reason for reason, _ in reasons[:3]))


def _option(site: Site, calls: Sequence[Call], method: Method, after: float, limits: Limits, seed: int) -> Option:
    fitted, judged = (calls[::2], calls[1::2]) if len(calls) > 1 else (calls, calls)
    precise = replace(site, dtype=torch.float32)
    form = method.form(precise, fitted, seed)
    full = [_full(site, call) for call in judged]
    lost = losses(full, [form(*call) for call in judged])
    if limits.correct and site.fixed and len(calls) > 1:
        shift = mean_residual([_full(site, call) for call in fitted], [form(*call) for call in fitted], tokens=True)
        better = replace(form, residual=shift)
        corrected = losses(full, [better(*call) for call in judged])
        if float(corrected.sum()) < 0.8 * float(lost.sum()):
            return Option(f"{described(method)} + residual", better.to(site.dtype), corrected, after)
    return Option(described(method), form.to(site.dtype), lost, after)


def _full(site: Site, call: Call) -> Tensor:
    return dense_attention(*call, causal=site.causal, scale=site.scale)


def losses(wanted: Sequence[Tensor], made: Sequence[Tensor]) -> Tensor:
    """Energy of what differs by the energy of what was wanted, for each head of [B, H, L, V].

    >>> losses([torch.ones(1, 2, 1, 1)], [torch.tensor([1.0, 0.5]).reshape(1, 2, 1, 1)]).tolist()
    [0.0, 0.25]
    """
    gap = torch.stack([(a - b).double().square().sum((0, 2, 3)) for a, b in zip(wanted, made, strict=True)]).sum(0)
    whole = torch.stack([a.double().square().sum((0, 2, 3)) for a in wanted]).sum(0)
    found = gap / whole.clamp(min=1e-30)
    return torch.where(found.isnan(), torch.inf, found)


def _best(
    site: Site, calls: Sequence[Call], options: Sequence[Option], limits: Limits, predictor: Predictor, before: float
) -> Choice | str:
    found: list[Choice] = []
    for assignment in _assignments(site, options, limits):
        choice = _choice(site, calls, assignment, predictor, before)
        if choice.after * limits.gain <= before:
            found.append(choice)
    if not found:
        few = max(int((option.lost <= limits.error).sum()) for option in options)
        return f"a method fits only {few} of {site.heads} heads, which does not pay"
    return min(found, key=lambda choice: choice.after)


def _assignments(site: Site, options: Sequence[Option], limits: Limits) -> Iterator[list[Option | None]]:
    """Each head's option, None for the attention as it is: mixed ones first, then one option for all that it fits."""
    fits = [[option for option in options if float(option.lost[head]) <= limits.error] for head in range(site.heads)]
    if limits.heads:
        first = [min(found, key=lambda option: option.seconds, default=None) for found in fits]
        popular = [item for item, _ in Counter(id(option) for option in first if option).most_common(GROUPS - 1)]
        yield [
            min((option for option in found if id(option) in popular), key=lambda option: option.seconds, default=None)
            for found in fits
        ]
    for option in options:
        whole = all(option in found for found in fits)
        if whole or limits.heads:
            yield [option if option in found else None for found in fits]


def _choice(
    site: Site, calls: Sequence[Call], assignment: Sequence[Option | None], predictor: Predictor, before: float
) -> Choice:
    dense = Option(
        "as it is", Form(dense_attention, {"causal": site.causal, "scale": site.scale}), torch.zeros(site.heads), before
    )
    chosen = [option or dense for option in assignment]
    names = list(dict.fromkeys(option.name for option in chosen))
    parts, told = [], []
    for name in names:
        heads = tuple(head for head, option in enumerate(chosen) if option.name == name)
        parts.append((heads, chosen[heads[0]].form))
        told.append(name if len(names) == 1 else f"{name} in heads {', '.join(map(str, heads))}")
    energy = torch.stack([_full(site, call).double().square().sum((0, 2, 3)) for call in calls]).sum(0)
    lost = sum(float(option.lost[head] * energy[head]) for head, option in enumerate(chosen)) / float(energy.sum())
    text = "; ".join(told)
    return Choice(tuple(parts), lost, before, predictor.mixed(site, parts, text), text)
