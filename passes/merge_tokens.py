"""`MergeTokens`: tokens that are alike become one, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from tersor.context import Context
from tersor.passes._tokens import Plan, check, learned, reduce_tokens
from tersor.program import Program
from tersor.target import Target
from tersor.tokens.methods import MERGE


@dataclass(frozen=True)
class MergeTokens:
    """Merge similar tokens behind attention layers, so that everything behind works on fewer (ToMe, arXiv:2210.09461).

    Layers, token axis and class, distillation and register tokens, which never merge, are found in the graph. The
    number of tokens is fixed at each layer, or a fixed share where it differs from call to call. Merged tokens are
    averages; keys and averages over tokens are weighed by how many tokens they stand for. Padding merges first and
    leaves no trace. Where a result needs all tokens (dense outputs, diffusion), each gets what the token has that it
    went into.

    Attributes:
        method: "bipartite" (ToMe), "energy" (PiToMe, arXiv:2405.16148), "criteria" (MCTF, arXiv:2403.10030), or, with
            ``around``, "grid" (into one of each 2x2 cell).
        r: tokens merged at each layer; 0 takes ``share``.
        share: of the tokens that are gone behind the last layer; with ``around``, at each.
        schedule: "constant" merges as many at each layer, "decreasing" more at first, "early" all at the first;
            "learned" finds by gradient on the calibration inputs how many, for the work that "constant" would leave
            (DiffRate, arXiv:2305.17997).
        layers: which of the attention layers, as "0+2", "1-3" or "2-"; empty for all.
        proportional: weigh keys by the number of tokens that they stand for.
        around: merge only around each attention and put tokens back behind it (ToMeSD, arXiv:2303.17604).
        protect: tokens that never merge, as "1" in front or "35+20" in front and behind; what is not said is found.
    """

    method: Literal["bipartite", "energy", "criteria", "grid"] = "bipartite"
    r: int = 0
    share: float = 0.5
    schedule: Literal["constant", "decreasing", "early", "learned"] = "constant"
    layers: str = ""
    proportional: bool = True
    around: bool = False
    protect: str = ""
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.method not in MERGE:
            raise ValueError(f"method is {self.method!r}, wanted one of {', '.join(MERGE)}")
        check(self.r, self.share, self.protect, self.layers, self.schedule)
        if self.method == "grid" and not self.around:
            raise ValueError('method "grid" puts tokens back at once, wanted around=true')

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        method = MERGE[self.method]
        plan = Plan(
            method, self.r, self.share, self.schedule, self.layers, self.proportional, self.around, self.protect,
            learned(method, self.share) if self.schedule == "learned" else None,
        )  # fmt: skip
        reduce_tokens(program, context, plan)

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """Shares, mildest first."""
        return tuple(cls(share=share, schedule="decreasing") for share in (0.3, 0.5, 0.7))
