"""`SubstituteAttention`: approximations stand for attentions, head by head, where they pay and lose little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import fx

from tersor.attention.choose import Choice, Limits, Predictor, choose
from tersor.attention.form import Mixed
from tersor.attention.inline import OPERANDS, Speller, operands, stand_for
from tersor.attention.settings import ASKED, NAMES, settings
from tersor.attention.site import Call, Site, collect, describe
from tersor.context import Context
from tersor.errors import CaptureError, RewriteError
from tersor.factor.options import whole
from tersor.passes.recognise_attention import possible, recognised
from tersor.program import Program
from tersor.rewrite import erase_unused
from tersor.target import Target

LOOKED_AT = 4
"""Calibration inputs that methods are fitted and judged on."""


@dataclass(frozen=True)
class SubstituteAttention:
    """Let a cheaper method stand for each attention, chosen for each head by calibration.

    For every attention, in any spelling that `recognise-attention` knows, each method is predicted on the target,
    fitted to what the attention is given on calibration data, and judged by the share of each head's energy that it
    loses. Heads take the fastest that stays within ``error``; the attention is replaced where that is predicted to be
    ``gain`` times as fast.
    What comes out are products over the blocks that are left, which every backend runs; no mask hides computed scores.

    Attributes:
        methods: names from `tersor.attention.settings.NAMES`, joined by "+"; "auto" for all but "distilled", which
            trains feature maps, and "guided", which is for batches of two halves, conditional and not, with
            classifier-free guidance.
        error: share of a head's output energy that may be lost, on calibration data.
        gain: predicted time before by time after that an attention must reach.
        heads: heads of one attention may have different methods.
        correct: add what a method misses on average over calibration inputs.
        anyway: substitute where it is predicted not to pay, too, to measure what it costs.
    """

    methods: str = "auto"
    error: float = 0.02
    gain: float = 1.2
    heads: bool = True
    correct: bool = True
    anyway: bool = False
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        wrong = [name for name in self.names if name not in NAMES]
        if wrong:
            raise ValueError(f"methods {wrong} are not known; wanted some of {', '.join(NAMES)}, or auto")
        whole("error", self.error)
        if not self.gain >= 1:
            raise ValueError(f"gain is {self.gain}; wanted 1 or more")

    @property
    def names(self) -> tuple[str, ...]:
        """The methods in question."""
        if self.methods == "auto":
            return tuple(name for name in NAMES if name not in ASKED)
        return tuple(self.methods.split("+"))

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """Three errors, where the program holds an attention."""
        if not possible(program):
            return ()
        return tuple(cls(error=error) for error in (0.005, 0.02, 0.08))

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        found: list[tuple[fx.Node, Choice]] = []
        sites: dict[fx.Node, Site] = {}
        for node in recognised(program, context):
            site = describe(node)
            if isinstance(site, str):
                context.skip(node, site)
            else:
                sites[node] = site
        predictor = Predictor(context.target, context.backend)
        inputs = (context.calibration or (program.inputs,))[:LOOKED_AT]
        for node, calls in collect(program, list(sites), inputs):
            made = self._chosen(sites[node], calls, predictor, context.seed)
            if isinstance(made, str):
                context.skip(node, made)
            else:
                found.append((node, made))
        speller = Speller()
        for node, choice in self._affordable(program, context, found, speller):
            spelled = _spelled(program, node, choice, speller)
            if isinstance(spelled, str):
                context.skip(node, spelled)
            elif context.take(node, _told(choice)):
                stand_for(program, node, spelled)
        erase_unused(program)
        program.prune_weights()
        program.changed()

    def _chosen(self, site: Site, calls: Sequence[Call], predictor: Predictor, seed: int) -> Choice | str:
        site = site.at(calls)
        limits = Limits(self.error, 0.0 if self.anyway else self.gain, self.heads, self.correct)
        return choose(site, calls, settings(site, self.names), limits, predictor, seed)

    def _affordable(
        self, program: Program, context: Context, found: list[tuple[fx.Node, Choice]], speller: Speller
    ) -> list[tuple[fx.Node, Choice]]:
        """Those that the budget allows together: half of the rest leaves, those that lose most for what they gain."""
        kept = sorted(found, key=lambda item: item[1].lost / max(item[1].before - item[1].after, 1e-12))
        while len(kept) > 1 and _overspends(context, _trial(program, kept, speller)):
            gone = kept[len(kept) // 2 :]
            kept = kept[: len(kept) // 2]
            for node, choice in gone:
                context.skip(node, f"{_told(choice)}: together with others it would spend more than the budget")
        names = {node.name for node, _ in kept}
        return [item for item in found if item[0].name in names]


def _overspends(context: Context, trial: Program) -> bool:
    quality = context.quality
    return quality is not None and quality.problem(quality.measure(trial)) is not None


def _trial(program: Program, chosen: Sequence[tuple[fx.Node, Choice]], speller: Speller) -> Program:
    trial = program.clone()
    nodes = {node.name: node for node in trial.nodes}
    for node, choice in chosen:
        made = _spelled(trial, nodes[node.name], choice, speller)
        if isinstance(made, fx.Node):
            stand_for(trial, nodes[node.name], made)
    erase_unused(trial)
    return trial


def _spelled(program: Program, node: fx.Node, choice: Choice, speller: Speller) -> fx.Node | str:
    """What would stand for an attention, not read by anything yet; or why it cannot be written for all sizes."""
    try:
        return speller.spell(program, node, Mixed(choice.parts), operands(node, *OPERANDS), choice.text)
    except (CaptureError, RewriteError) as error:
        return f"{choice.text}: {error}"


def _told(choice: Choice) -> str:
    faster = choice.before / max(choice.after, 1e-12)
    return f"{choice.text}; {choice.lost:.2%} of its energy lost, predicted {faster:.2f} times as fast"
