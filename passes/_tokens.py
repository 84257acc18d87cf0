"""Token reduction: the options and the work that the passes share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tersor.axes import Axes, analyze
from tersor.axes.terms import resolve
from tersor.context import Context
from tersor.cost.shapes import hint
from tersor.errors import RewriteError
from tersor.passes.recognise_attention import recognised
from tersor.program import Program
from tersor.refresh import refresh
from tersor.rewrite_values import arguments, fake, known
from tersor.tokens.apply import Site, apply
from tersor.tokens.attend import Masks, masks
from tersor.tokens.axis import Tokens
from tersor.tokens.cuts import Layer, attentions, layers
from tersor.tokens.learned import Course, rounded
from tersor.tokens.rates import Rate, chosen, protected, schedule, shares
from tersor.tokens.simulate import attention_received, learned_rates
from tersor.tokens.step import Method, Step
from tersor.tokens.threshold import left_by_threshold

INPUTS = 4
"""So many calibration inputs show what masks hide."""


@dataclass(frozen=True)
class Plan:
    """What a pass wants.

    Attributes:
        method: how tokens are chosen.
        r: tokens to remove at each layer; 0 takes ``share``.
        share: share of the tokens that is gone behind the last layer.
        schedule: how the share is spread over layers.
        layers: which attention layers, see `tersor.tokens.rates.chosen`.
        proportional: whether attention weighs keys by the number of tokens that they stand for.
        around: whether tokens are put back behind each attention.
        protect: tokens that stay in front and behind, see `tersor.tokens.rates.protected`.
        rates: gives, where they are learned, the share of the tokens that goes at each layer.
    """

    method: Method
    r: int = 0
    share: float = 0.5
    schedule: str = "constant"
    layers: str = ""
    proportional: bool = True
    around: bool = False
    protect: str = ""
    rates: Callable[[Program, Sequence[Layer], Context], list[float]] | None = None


Rates = Callable[[Program, Sequence[Layer], Context], list[float]]
"""Gives the share of the tokens that goes at each of some layers."""


def check(r: int, share: float, protect: str, layers: str, schedule: str) -> None:
    """Raise ValueError where an option makes no sense."""
    if r and schedule != "constant":
        raise ValueError(f"r is {r} and schedule {schedule!r}: r tokens at each layer are constant; give a share")
    if r < 0:
        raise ValueError(f"r is {r}, wanted 0 or a number of tokens")
    if not 0.0 < share < 1.0:
        raise ValueError(f"share is {share}, wanted a share between 0 and 1")
    protected(protect)
    chosen((), layers)


def reduce_tokens(program: Program, context: Context, plan: Plan) -> None:
    """Reduce tokens wherever the graph allows, in place; announces every layer."""
    if not recognised(program, context):
        return
    axes = analyze(program)
    groups: dict[object, list[str]] = {}
    for node, found in layers(program, axes, protected(plan.protect)):
        if isinstance(found, str):
            context.skip(node, found)
        else:
            groups.setdefault(resolve(found.tokens.term), []).append(node.name)
    for names in groups.values():
        _reduce_group(program, context, plan, names)


def _reduce_group(program: Program, context: Context, plan: Plan, names: Sequence[str]) -> None:
    """The layers of one token axis."""
    refresh(program)
    axes = analyze(program)
    found = [item for node, item in layers(program, axes, protected(plan.protect)) if node.name in names]
    these = [item for item in found if not isinstance(item, str)]
    if len(these) < len(names):
        return
    known_masks = masks(program, attentions(program), (context.calibration or (program.inputs,))[:INPUTS])
    sites = _sites(program, axes, these, context, plan)
    if not sites:
        return
    trial = _tried(program, axes, sites, known_masks, plan)
    if isinstance(trial, str):
        for site in sites:
            context.skip(site.layer.attention, trial)
        return
    taken = [site for site in sites if context.take(site.layer.attention, _detail(site))]
    if not taken:
        return
    if len(taken) < len(sites):
        trial = _tried(program, axes, taken, known_masks, plan)
        if isinstance(trial, str):
            raise RewriteError(trial)
    program.graph, program.weights = trial.graph, trial.weights
    program.changed()


def _tried(program: Program, axes: Axes, sites: Sequence[Site], known_masks: Masks, plan: Plan) -> Program | str:
    """A copy with the sites done, or why that is impossible."""
    made = program.clone()
    values = dict(axes.values)
    own = Axes(
        values, axes.weights, axes.literals, axes.contractions, axes.spans, axes.roles, axes.meanings, axes.unknown
    )
    try:
        applied = apply(made, own, sites[0].layer.tokens, [_in(site, made) for site in sites], known_masks)
        refresh(made)
    except RewriteError as error:
        return str(error)
    if not applied.work:
        return "all tokens are needed again before anything is saved" + (
            f", by {applied.restored[0]}" if applied.restored else ""
        )
    return made


def _in(site: Site, program: Program) -> Site:
    """The site with a copy's nodes."""
    nodes = {node.name: node for node in program.nodes}
    layer = site.layer
    before = None if layer.before is None else nodes[layer.before.name]
    there = Layer(nodes[layer.attention.name], layer.tokens, nodes[layer.behind.name], before)
    return Site(there, site.step, site.proportional, site.around)


def learned(method: Method, share: float) -> Rates:
    """Rates learned by gradient, see `tersor.tokens.learned`."""

    def rates(program: Program, asked: Sequence[Layer], context: Context) -> list[float]:
        inputs = context.calibration or (program.inputs,)
        return learned_rates(program, asked, method, share, inputs, Course())

    return rates


def below(threshold: float) -> Rates:
    """Rates of tokens below a threshold, see `tersor.tokens.threshold`."""

    def rates(program: Program, asked: Sequence[Layer], context: Context) -> list[float]:
        left = [1.0, *left_by_threshold(attention_received(program, asked, context.calibration), threshold)]
        return [1 - after / max(before, 1e-6) for before, after in pairwise(left)]

    return rates


def _sites(program: Program, axes: Axes, found: Sequence[Layer], context: Context, plan: Plan) -> list[Site]:
    """Where how many tokens go; layers with too few are skipped."""
    where = chosen(found, plan.layers)
    asked = [found[place] for place in where]
    if not asked:
        return []
    length = fake(arguments(asked[0].attention)["key"]).shape[-2]
    total, fixed = hint(length), known(length) is not None
    assert total is not None
    learned = plan.rates(program, asked, context) if plan.rates is not None else None
    rates = _rates(plan, asked, total, fixed, learned)
    made: list[Site] = []
    left = total if fixed else _shortest(program, asked[0].tokens, total)
    for layer, rate, place in zip(asked, rates, where, strict=True):
        count = rate.of(left)
        reason = _refusal(plan, layer, rate, left, fixed)
        if reason:
            context.skip(layer.attention, reason)
            continue
        if count or not fixed:
            tokens = layer.tokens
            step = Step(plan.method, rate, tokens.first, tokens.last, place / len(found), grid=tokens.grid())
            made.append(Site(layer, step, plan.proportional, plan.around))
        if not plan.around:
            left -= count
    return made


def _rates(plan: Plan, asked: Sequence[Layer], total: int, fixed: bool, learned: Sequence[float] | None) -> list[Rate]:
    free = total - asked[0].tokens.first - asked[0].tokens.last
    if learned is not None:
        counts = rounded(learned, free) if fixed else []
        return [Rate(count=count) for count in counts] or [Rate(parts=round(64 * rate)) for rate in learned]
    if plan.r:
        return [Rate(count=plan.r)] * len(asked)
    if plan.around:
        return [Rate(count=round(plan.share * free)) if fixed else Rate(parts=round(plan.share * 64))] * len(asked)
    if not fixed:
        return [Rate(parts=parts) for parts in shares(len(asked), plan.share, plan.schedule)]
    return [Rate(count=count) for count in schedule(free, len(asked), plan.share, plan.schedule)]


def _shortest(program: Program, tokens: Tokens, total: int) -> int:
    """The fewest tokens that there can be."""
    names = {str(symbol) for symbol in getattr(tokens.total, "free_symbols", ())}
    bounds = [item.minimum for key, item in program.dimensions.items() if key in names]
    return min([total, *bounds])


def _refusal(plan: Plan, layer: Layer, rate: Rate, left: int, fixed: bool) -> str:
    """Why so many tokens cannot go at a layer."""
    tokens, count = layer.tokens, rate.of(left)
    if plan.around and layer.before is None:
        return "its queries, keys and values are not made of one sequence"
    most = plan.method.most(left, tokens.first, tokens.last)
    if not fixed and rate.count and count > most:
        return (
            f"there may be as few as {left} tokens, of which {count} cannot go; give a share instead of r, or a larger "
            "minimum for the dynamic dimension"
        )
    if not fixed:
        return _share_refusal(rate, tokens)
    if count > most:
        return f"{count} of {left} tokens cannot go at once: at most {max(most, 0)}, {tokens.first} being protected"
    return ""


def _share_refusal(rate: Rate, tokens: Tokens) -> str:
    if rate.parts > 24:
        return f"{rate.parts} of 64 tokens at one layer are more than 24, which short inputs could not spare"
    if tokens.first + tokens.last > 1:
        return "the number of tokens differs from call to call, and more than one token is protected"
    return ""


def _detail(site: Site) -> str:
    step, tokens = site.step, site.layer.tokens
    count = f"{step.rate.parts} of 64" if step.rate.parts else str(step.rate.count)
    verb = {"merge": "merged into others", "prune": "dropped", "fuse": "fused"}[step.method.kind]
    where = "around its attention" if site.around else f"behind {site.layer.behind.name}"
    return f"{count} tokens {verb} {where}" + (f", {tokens.first} protected" if tokens.first else "")
