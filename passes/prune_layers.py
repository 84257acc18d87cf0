"""`PruneLayers`: residual blocks whose removal hurts least are removed, or share the weights of a neighbour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from tersor.context import Context
from tersor.cost.flops import program_flops
from tersor.factor.observe import observe
from tersor.factor.options import count, share
from tersor.factor.residual import Block, alike, blocks, bypass, change, influence
from tersor.factor.residual import share as share_weights
from tersor.interface import Flat
from tersor.program import Program
from tersor.target import Target

BATCHES = 4
"""So many calibration inputs are run for each candidate."""


@dataclass(frozen=True)
class Edit:
    """A block, and the one whose weights it would take; None where it would be removed."""

    block: Block
    model: Block | None
    harm: float

    @property
    def saved(self) -> int:
        """Operations, or weights where weights are shared."""
        if self.model is None:
            return self.block.work
        return sum(int(node.meta["val"].numel()) for node in self.block.weights)


@dataclass(frozen=True)
class PruneLayers:
    """Remove whole residual blocks ``x + f(x)``, one after another, each time the one that hurts least per operation.

    Blocks are found by what they do, not by names: a sum one of whose operands depends on the other. Harm is measured
    by running the program without the block, or estimated by how little it turns the stream (ShortGPT,
    arXiv:2403.03853). With ``share`` a block stays, and takes the weights of the next block like it (FoldGPT,
    arXiv:2407.00928), which saves memory and no time.

    Attributes:
        count: blocks to remove.
        ratio: share of the program's operations, or weights with ``share``, to remove at most, instead of a count.
        score: "output" measures the change of the outputs, "influence" takes one run for all blocks.
        share: share weights instead of removing.
    """

    count: int = 1
    ratio: float | None = None
    score: Literal["output", "influence"] = "output"
    share: bool = False
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        count("count", self.count)
        share("ratio", self.ratio)
        if self.score not in ("output", "influence"):
            raise ValueError(f"score is {self.score!r}; wanted 'output' or 'influence'")

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """Up to half of the blocks."""
        found = len(list(blocks(program)))
        return tuple(cls(count=number) for number in (1, 2, 3, 4, 6, 8, 12) if 2 * number <= found)

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        batches = (context.calibration or (program.inputs,))[:BATCHES]
        wanted = [program.run(inputs) for inputs in batches]
        budget = None if self.ratio is None else self.ratio * self._whole(program)
        asked: set[str] = set()
        done, scored = 0, self._scored(program, self._edits(program), batches, wanted)
        while budget is not None or done < self.count:
            edits = [
                item for item in scored if item.block.end.name not in asked and (budget is None or item.saved <= budget)
            ]
            if not edits:
                break
            best = min(edits, key=lambda edit: edit.harm / edit.saved)
            asked.add(best.block.end.name)
            if not context.take(best.block.end, self._detail(best)):
                continue
            self._apply(program, best)
            done += 1
            budget = None if budget is None else budget - best.saved
            scored = self._scored(program, self._edits(program), batches, wanted)
        for edit in scored:
            if edit.block.end.name not in asked:
                large = budget is not None and edit.saved > budget
                reason = "it holds more than may still be removed" if large else "it would hurt more"
                context.skip(edit.block.end, f"{reason}: {self._harm_text(edit)}")

    def _whole(self, program: Program) -> int:
        if self.share:
            return sum(int(node.meta["val"].numel()) for node in program.graph.find_nodes(op="get_attr"))
        counted = program_flops(program)
        return counted.products + counted.elementwise

    def _edits(self, program: Program) -> list[Edit]:
        found = list(blocks(program))
        if not self.share:
            return [Edit(block, None, 0.0) for block in found]
        readers = Counter(str(node.target) for node in program.graph.find_nodes(op="get_attr"))
        own = [block for block in found if all(readers[str(node.target)] == 1 for node in block.weights)]
        return [Edit(block, model, 0.0) for block in own for model in _neighbours(block, found)]

    def _scored(
        self, program: Program, edits: Sequence[Edit], batches: Sequence[Flat], wanted: Sequence[Flat]
    ) -> list[Edit]:
        if self.score == "influence" and not self.share:
            return _influences(program, edits, batches)
        return [Edit(edit.block, edit.model, self._harm(program, edit, batches, wanted)) for edit in edits]

    def _harm(self, program: Program, edit: Edit, batches: Sequence[Flat], wanted: Sequence[Flat]) -> float:
        trial = program.clone()
        self._apply(trial, edit)
        return change(wanted, [trial.run(inputs) for inputs in batches])

    def _apply(self, program: Program, edit: Edit) -> None:
        if edit.model is None:
            bypass(program, edit.block.end.name, edit.block.stream.name)
            return
        found = {block.end.name: block for block in blocks(program)}
        share_weights(program, found[edit.block.end.name], found[edit.model.end.name])

    def _detail(self, edit: Edit) -> str:
        if edit.model is not None:
            return f"takes the weights of {edit.model.end.name}; {self._harm_text(edit)}"
        return f"{len(edit.block.inner)} nodes from {edit.block.stream.name} on removed; {self._harm_text(edit)}"

    def _harm_text(self, edit: Edit) -> str:
        if self.score == "influence" and not self.share:
            return f"influence {edit.harm:.3g}"
        return f"outputs move by {edit.harm:.2%} of their spread"


def _neighbours(block: Block, found: Sequence[Block]) -> list[Block]:
    """The next blocks like it on either side."""
    place = found.index(block)
    near = [
        next((item for item in side if alike(item, block)), None) for side in (found[:place][::-1], found[place + 1 :])
    ]
    return [item for item in near if item is not None]


def _influences(program: Program, edits: Sequence[Edit], batches: Sequence[Flat]) -> list[Edit]:
    """Every block's influence, from one run."""
    seen: dict[str, Tensor] = {}
    sums = dict.fromkeys([edit.block.end.name for edit in edits], 0.0)

    def hook(name: str) -> Callable[[Sequence[Any], Any], None]:
        ending = [edit.block.stream.name for edit in edits if edit.block.end.name == name]

        def compare(args: Sequence[Any], result: Any) -> None:
            seen[name] = result
            for stream in ending:
                sums[name] += influence(seen[stream], result) / len(batches)

        return compare

    observe(program, batches, {name: hook(name) for name in {*sums, *(edit.block.stream.name for edit in edits)}})
    return [Edit(edit.block, edit.model, sums[edit.block.end.name]) for edit in edits]
