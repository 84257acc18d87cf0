"""`Moefy`: a feed-forward block becomes experts, each of which computes the tokens that need it most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from tersor.calibrate import Tap
from tersor.context import Context
from tersor.cost.shapes import hint
from tersor.factor.experts import capacity, chosen, cluster, contributions, similarity
from tersor.factor.feedforward import FeedForward, feedforwards
from tersor.factor.least_squares import Pairs, refit
from tersor.factor.observe import Hook, Moments, last_rows, moments, observe
from tersor.factor.options import count, share
from tersor.factor.routed import Experts, put_experts
from tersor.factor.worth import Stage, work
from tersor.program import Program
from tersor.rewrite_values import fake, same_size


@dataclass(frozen=True)
class Moefy:
    """Split the hidden units of feed-forward blocks into experts and compute each for a share of the tokens only.

    Units that are strong together form an expert, and a linear router learns from the calibration data how far each
    expert moves the output (MoEfication, Zhang et al., arXiv:2110.01786); where an expert is left out, its average
    stands in. Experts choose their tokens among those of a sample (Zhou et al., arXiv:2202.09368), since gathering
    tokens is cheap in a dense graph and gathering weights for each token is not. The result of a token then depends on
    the other tokens of its sample, also on later ones: this is for encoders, not for decoders.

    Attributes:
        experts: per block; blocks whose hidden units are no multiple stay.
        active: share of a sample's tokens that each expert computes, in sixteenths.
        margin: a block is replaced only if its predicted work falls below this share.
    """

    experts: int = 8
    active: float = 0.5
    margin: float = 0.9
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        count("experts", self.experts, least=2)
        share("active", self.active)
        share("margin", self.margin)

    @property
    def sixteenths(self) -> int:
        """The active share."""
        return max(math.ceil(self.active * 16 - 1e-9), 1)

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        found = []
        for block in feedforwards(program):
            reason = self._refusal(program, context, block)
            if reason:
                context.skip(block.down, reason)
            else:
                found.append(block)
        for site in self._learn(program, context, found):
            what = (
                f"{self.experts} experts on {self.sixteenths}/16 of the tokens hold {site.held():.1%} of the variance"
            )
            if context.take(site.block.down, what):
                put_experts(program, site.block, site.experts(), self.sixteenths)
        program.prune_weights()
        program.changed()

    def _refusal(self, program: Program, context: Context, block: FeedForward) -> str | None:
        source = fake(block.source)
        if block.units % self.experts:
            return f"{block.units} hidden units are not divided by {self.experts} experts"
        if source.dim() != 3:
            return f"its input has {source.dim()} dimensions; experts choose among tokens of (batch, tokens, features)"
        if not any(v.dim() and same_size(v.shape[0], source.shape[0]) for v in map(fake, program.placeholders)):
            return "the first dimension of its input is not the batch, so that samples would be mixed"
        if not context.calibration:
            return "there is no calibration data to learn a router from"
        rows = [hint(size) for size in source.shape[:2]]
        if rows[0] is None or rows[1] is None:
            return "the number of tokens depends on data"
        before, after = self._work(context, block, rows[0], rows[1])
        if after >= self.margin * before:
            return f"predicted work would be {after / before:.0%} of the dense block's"
        return None

    def _work(self, context: Context, block: FeedForward, batch: int, tokens: int) -> tuple[float, float]:
        wide, out, units, rows = block.leaves[0].weight.shape[1], len(block.weight), block.units, batch * tokens
        weight = units * (wide * len(block.leaves) + out)
        before = [Stage(rows, weight, rows * (wide + out + 2 * units))]
        taken = batch * capacity(tokens, self.sixteenths)
        gathered = taken * self.experts
        after = [
            Stage(rows, wide * self.experts, rows * (wide + self.experts)),
            # Batched weights are not packed ahead of time, so that they are read twice.
            Stage(
                taken,
                weight,
                weight + 4 * gathered * wide + 2 * (gathered + rows * self.experts) * out + 2 * taken * units,
            ),
        ]
        element = block.weight.element_size()
        return work(before, context.target, element), work(after, context.target, element)

    def _learn(self, program: Program, context: Context, found: Sequence[FeedForward]) -> list[Site]:
        """Clusters from one run over the calibration data, routers from a second, averages from a third."""
        taps = {block.down.name: Tap(block.down.name, block.hidden.name, -1) for block in found}
        known = moments(program, taps.values(), context.calibration)
        sites = []
        for block in found:
            hidden = known.get(taps[block.down.name])
            if hidden is None:
                context.skip(block.down, "its hidden units are not finite on the calibration data")
                continue
            parts = cluster(similarity(hidden), self.experts, seed=context.seed)
            sites.append(Site(block, parts, hidden, self.sixteenths))
        reads = {site.block.source.name: _reader(site.block.source.name, sites) for site in sites}
        for step in (Site.learn, Site.weigh):
            ends = {site.block.down.name: partial(step, site) for site in sites}
            observe(program, context.calibration, {**reads, **ends})
        return sites


def _reader(name: str, sites: Sequence[Site]) -> Hook:
    """Shows the blocks that read a node what it gives; they need it at their end."""

    def read(args: Sequence[Any], result: Any) -> None:
        for site in sites:
            if site.block.source.name == name:
                site.source = result

    return read


@dataclass
class Site:
    """A block and what is learned of it.

    Attributes:
        block: the block.
        parts: (units,) the expert of each hidden unit.
        hidden: moments of the hidden units.
        sixteenths: the share of tokens that each expert takes.
        left, whole: what experts do with tokens that they leave out, and with all.
    """

    block: FeedForward
    parts: Tensor
    hidden: Moments
    sixteenths: int

    def __post_init__(self) -> None:
        self.pairs = Pairs.empty(self.block.leaves[0].weight.shape[1], self.number)
        self.left, self.whole = (Sums.empty(self.block.units, self.number) for _ in range(2))
        self.source: Any = None
        self.routed: tuple[Tensor, Tensor] | None = None

    @property
    def number(self) -> int:
        """How many experts there are."""
        return int(self.parts.max()) + 1

    def learn(self, args: Sequence[Any], result: Any) -> None:
        """Take in what the router has to predict."""
        lengths = contributions(args[0], self.hidden.mean, self.block.weight, self.parts)
        self.pairs.add(last_rows(self.source), last_rows(lengths))

    def weigh(self, args: Sequence[Any], result: Any) -> None:
        """Take in the average of what is left out, and how much is held."""
        weight, shift = self.router()
        scores = torch.nn.functional.linear(self.source.double(), weight, shift)
        taken = chosen(scores, capacity(scores.shape[1], self.sixteenths)).flatten(0, 1)
        rows = last_rows(args[0]).double()
        squares = contributions(rows, torch.zeros_like(rows[0]), self.block.weight, self.parts).square()
        for sums, share_of in ((self.left, 1 - taken), (self.whole, torch.ones_like(taken))):
            sums.units += (rows * share_of[:, self.parts]).sum(0)
            sums.squares += (squares * share_of).sum(0)
            sums.count += share_of.sum(0)

    def held(self) -> float:
        """Share of the variance of what experts add that does not come from tokens that they leave out."""
        left, whole = (sums.spread(self.block.weight, self.parts) for sums in (self.left, self.whole))
        return 1.0 - left / max(whole, 1e-300)

    def router(self) -> tuple[Tensor, Tensor]:
        """Weight (experts, in) and bias (experts,) that predict contributions."""
        if self.routed is None:
            self.routed = refit(torch.zeros(self.number, len(self.pairs.x)), self.pairs)
        return self.routed

    def experts(self) -> Experts:
        """All that the graph needs."""
        mean = torch.where(self.left.count[self.parts] > 0, self.left.mean(self.parts), self.hidden.mean)
        return Experts(self.parts, mean, *self.router())


@dataclass
class Sums:
    """What experts do with some tokens.

    Attributes:
        units: (units,) sum of the hidden units.
        squares: (experts,) sum of the squared length of what each adds to the output.
        count: (experts,) tokens.
    """

    units: Tensor
    squares: Tensor
    count: Tensor

    @classmethod
    def empty(cls, units: int, experts: int) -> Sums:
        """No tokens yet."""
        return cls(*(torch.zeros(width, dtype=torch.float64) for width in (units, experts, experts)))

    def mean(self, parts: Tensor) -> Tensor:
        """(units,) average of each hidden unit."""
        return self.units / self.count.clamp(min=1)[parts]

    def spread(self, weight: Tensor, parts: Tensor) -> float:
        """Squared distance of what experts add from its average, summed over tokens and experts."""
        average = contributions(self.mean(parts), torch.zeros_like(self.units), weight, parts).square()
        return float((self.squares - self.count * average).clamp(min=0).sum())
