"""`PruneTokens`: tokens that matter least go, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from tersor.context import Context
from tersor.passes._tokens import Plan, below, check, learned, reduce_tokens
from tersor.program import Program
from tersor.target import Target
from tersor.tokens.methods import PRUNE


@dataclass(frozen=True)
class PruneTokens:
    """Keep the tokens that attention says matter, and fuse, cluster or drop the others behind attention layers.

    Layers, token axis and protected tokens are found in the graph, and numbers are fixed, as for `MergeTokens`. Where a
    result needs all tokens, a dropped one gets what the most similar kept one has (AT-EDM, arXiv:2405.05252).

    Attributes:
        method: "class" keeps what the class token attends to and fuses the rest into one token (EViT,
            arXiv:2202.07800), "class-only" drops the rest, "last" keeps what the last token attends to (FastV,
            arXiv:2403.06764, for decoders that read a picture, at ``layers="1"``), "received" keeps what all tokens
            attend to (LTP, arXiv:2107.00910), "page-rank" walks over the attention graph first (Zero-TPrune,
            arXiv:2305.17328), "diverse" clusters the rest around tokens that are unlike each other (arXiv:2211.11315).
        r: tokens removed at each layer; 0 takes ``share``.
        share: of the tokens that are gone behind the last layer.
        schedule: "constant" removes as many at each layer, "decreasing" more at first, "early" all at the first;
            "learned" as for `MergeTokens`; "threshold" as many as would fall below ``threshold`` on average over the
            calibration inputs (LTP).
        threshold: how much attention a token must receive at the last layer to stay, as a multiple of the average; at
            layers before proportionally less.
        layers: which of the attention layers, as "0+2", "1-3" or "2-"; empty for all.
        proportional: weigh keys by the number of tokens that they stand for, where tokens are fused.
        protect: tokens that stay, as "1" in front or "35+20" in front and behind; what is not said is found.
    """

    method: Literal["class", "class-only", "last", "received", "page-rank", "diverse"] = "class"
    r: int = 0
    share: float = 0.5
    schedule: Literal["constant", "decreasing", "early", "learned", "threshold"] = "constant"
    threshold: float = 0.5
    layers: str = ""
    proportional: bool = True
    protect: str = ""
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.method not in PRUNE:
            raise ValueError(f"method is {self.method!r}, wanted one of {', '.join(PRUNE)}")
        check(self.r, self.share, self.protect, self.layers, self.schedule)
        if self.threshold <= 0:
            raise ValueError(f"threshold is {self.threshold}, wanted a positive multiple of the average attention")

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        method = PRUNE[self.method]
        rates = {"learned": learned(method, self.share), "threshold": below(self.threshold)}.get(self.schedule)
        plan = Plan(
            method, self.r, self.share, self.schedule, self.layers, self.proportional, protect=self.protect, rates=rates
        )
        reduce_tokens(program, context, plan)

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """Shares, mildest first."""
        return tuple(cls(share=share, schedule="decreasing") for share in (0.3, 0.5, 0.7))
