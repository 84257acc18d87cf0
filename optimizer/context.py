"""What a pass is told and tells: candidate sites taken, skipped, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from torch import fx

from tersor.interface import Flat
from tersor.program import Program
from tersor.report.model import Parity, PrecisionRecord
from tersor.target import Target, detect

if TYPE_CHECKING:
    from tersor.axes.analysis import Axes
    from tersor.axes.select import Kept
    from tersor.quality import Quality


@dataclass(frozen=True)
class Site:
    """One place in a graph: a node's name, where it came from, and what was done or why not.

    Attributes:
        node: name of the node.
        detail: what was done there, or the reason why nothing was.
        origin: module path or ONNX node name that the node came from; empty where unknown.
    """

    node: str
    detail: str
    origin: str = ""


@dataclass
class Context:
    """What one application of a pass may use, and the sites it tells of.

    Attributes:
        limit: set by bisect; only candidates it accepts are taken.
        calibration: unlabelled flat inputs to collect statistics from; at least the example inputs.
        target: the device whose costs decide what pays.
        backend: that the program is made for; "auto" where the fastest is looked for.
        seed: of everything random.
        taken, skipped: sites in order.
        proofs: comparisons that a pass made itself, such as a cut with the zeroed original.
        cuts: for each cut, the analysis and the indices that stay, so that recovery can tell what belongs together.
        quality: what will judge the result; None where nobody does.
        precision: told by a pass that quantizes: where its error comes from.
    """

    limit: Callable[[Site], bool] | None = None
    calibration: tuple[Flat, ...] = ()
    target: Target = field(default_factory=detect)
    backend: str = "auto"
    seed: int = 0
    taken: list[Site] = field(default_factory=list)
    skipped: list[Site] = field(default_factory=list)
    proofs: list[Parity] = field(default_factory=list)
    cuts: list[tuple[Axes, Kept]] = field(default_factory=list)
    quality: Quality | None = None
    precision: PrecisionRecord | None = None

    def take(self, node: fx.Node, detail: str) -> bool:
        """Announce an edit at ``node``; do the edit only where this returns True."""
        site = Site(node.name, detail, origin(node))
        if self.limit is not None and not self.limit(site):
            return False
        self.taken.append(site)
        return True

    def skip(self, node: fx.Node, reason: str) -> None:
        """Announce that a candidate was declined, with the reason."""
        self.skipped.append(Site(node.name, reason, origin(node)))


@runtime_checkable
class Pass(Protocol):
    """A rewrite of a program: a frozen dataclass in its own file, whose fields are its options.

    ``exact`` passes must not move the outputs; others spend from the budget. The call edits the program in place and
    announces each site to the context; the pipeline clones before and verifies after.
    """

    exact: ClassVar[bool]

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""


def origin(node: fx.Node) -> str:
    """The ONNX node name or the module path that a node came from."""
    custom = node.meta.get("custom")
    if isinstance(custom, dict) and "onnx" in custom:
        return str(custom["onnx"])
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = str(list(stack.values())[-1][0])
    return path.removeprefix("L['self'].").removeprefix("L__self__.")
