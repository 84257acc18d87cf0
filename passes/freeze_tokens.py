"""`FreezeTokens`: in layers that hardly use them, the tokens of a picture stand still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import Tensor

from tersor.axes import Axes, analyze
from tersor.axes.terms import resolve
from tersor.context import Context
from tersor.errors import RewriteError
from tersor.importance.losses import divergence
from tersor.interface import Flat
from tersor.passes.recognise_attention import possible, recognised
from tersor.program import Program
from tersor.refresh import refresh
from tersor.rewrite import erase_unused
from tersor.rewrite_values import key
from tersor.target import Target
from tersor.tokens.axis import Tokens
from tersor.tokens.cuts import Layer, layers
from tersor.tokens.freeze import Span, freeze, spans
from tersor.tokens.matrix import ends_of
from tersor.tokens.rates import chosen, protected

LOOKED_AT = 4
"""Calibration inputs that show what a layer does to the tokens."""


@dataclass(frozen=True)
class FreezeTokens:
    """In some layers the longest stretch of tokens keeps its features, and only the others move on (ShortV,
    arXiv:2504.00502).

    The frozen tokens still give keys and values to those around them, such as words before and after a picture; their
    queries, attention output and feed-forward part are not computed. Which layers use them least is measured: the
    divergence of the output where they are frozen in that layer alone. The last layer is never
    frozen.

    Attributes:
        share: of the layers.
        layers: which, as "0+2", "1-3" or "2-", instead of those that calibration finds.
        protect: tokens that move, as "1" in front or "35+20" in front and behind; what is not said is found.
    """

    share: float = 0.5
    layers: str = ""
    protect: str = ""
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share is {self.share}, wanted a share of the layers between 0 and 1")
        protected(self.protect)
        chosen((), self.layers)

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """Shares, mildest first, where words are read."""
        words = any(key(node) == "embedding" for node in program.nodes)
        return tuple(cls(share=share) for share in (0.3, 0.6)) if words and possible(program) else ()

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        recognised(program, context)
        axes = analyze(program)
        groups: dict[object, list[Layer]] = {}
        for node, found in layers(program, axes, protected(self.protect)):
            reason = found if isinstance(found, str) else _refusal(found.tokens)
            if reason:
                context.skip(node, reason)
            elif isinstance(found, Layer):
                groups.setdefault(resolve(found.tokens.term), []).append(found)
        for group in groups.values():
            self._freeze(program, context, axes, spans(program, axes, group))

    def _freeze(self, program: Program, context: Context, axes: Axes, found: Sequence[Span]) -> None:
        """The layers of one token axis."""
        wanted = [found[place] for place in chosen(found, self.layers)]
        trials = [(span, _frozen(program, axes, [span])) for span in wanted]
        nodes = {node.name: node for node in program.nodes}
        for span, trial in trials:
            if isinstance(trial, str):
                context.skip(nodes[span.layer.attention.name], trial)
        possible = [(span, trial) for span, trial in trials if isinstance(trial, Program)]
        if not self.layers:
            possible = _least(program, context, axes, possible, round(self.share * len(found)))
        taken = [span for span, _ in possible if context.take(nodes[span.layer.attention.name], _detail(span))]
        if not taken:
            return
        made = _frozen(program, axes, taken)
        if isinstance(made, str):
            raise RewriteError(made)
        program.graph, program.weights = made.graph, made.weights
        program.changed()


def _refusal(tokens: Tokens) -> str:
    """Why none of the tokens can be frozen."""
    if not isinstance(tokens.total, int):
        return "the number of tokens differs from call to call"
    moving = tokens.first + tokens.last
    return "" if 0 < moving < tokens.total else "its tokens are all of one kind: none would move, or none be frozen"


def _frozen(program: Program, axes: Axes, these: Sequence[Span]) -> Program | str:
    """A copy with some layers frozen, or why that is impossible; from the last, so that names stay what they were."""
    made = program.clone()
    try:
        for span in reversed(these):
            freeze(made, replace(axes, values=dict(axes.values)), span)
        erase_unused(made)
        made.prune_weights()
        return refresh(made)
    except RewriteError as error:
        return str(error)


def _least(
    program: Program, context: Context, axes: Axes, possible: Sequence[tuple[Span, Program]], count: int
) -> list[tuple[Span, Program]]:
    """Those that contribute least to the output by what they do to the tokens, in order."""
    inputs = (context.calibration or (program.inputs,))[:LOOKED_AT]
    if not possible:
        return []
    tokens = possible[0][0].layer.tokens
    wanted = _read(program, axes, tokens, inputs)
    lost = [
        sum(float(divergence(*pair)) for pair in zip(wanted, _read(trial, axes, tokens, inputs), strict=True))
        for _, trial in possible
    ]
    best = sorted(range(len(lost)), key=lost.__getitem__)[:count]
    return [possible[place] for place in sorted(best)]


def _read(program: Program, axes: Axes, tokens: Tokens, inputs: Sequence[Flat]) -> list[Tensor]:
    """The first output on some inputs, of tokens that move only."""
    (output, *_) = program.outputs
    run = tokens.run(axes.values.get(output.name))
    made = [program.run(flat)[0] for flat in inputs]
    if run is None or not run.whole:
        return made
    return [ends_of(value, run.dim, tokens.first, tokens.last) for value in made]


def _detail(span: Span) -> str:
    tokens = span.layer.tokens
    still = tokens.total - tokens.first - tokens.last
    return f"{still} of {tokens.total} tokens stand still between {span.start} and {span.end}"
