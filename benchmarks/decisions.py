"""Would the predicted gain of a pass have decided rightly? Rewritten models against what they were, on this CPU.

Run: python benchmarks/cost_store.py && python benchmarks/cpu_cost.py --measure
     python benchmarks/decisions.py [--write]        compares predicted with measured gains, without measuring again
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.cost_store import EXACT
from benchmarks.cpu_cost import RUN, Compared, compared, machine, rank
from benchmarks.results import write

SLOWER = 1.02
"""A rewrite that is measured slower than this multiple of what it was does not pay."""
EVEN = 0.02
"""A difference below this share is none: neither sign is wrong."""


@dataclass(frozen=True)
class Decision:
    """One pass with one setting on one model; times as multiples of what it was before."""

    model: str
    spec: str
    predicted: float
    measured: float

    @property
    def right(self) -> bool:
        """Whether the sign of the gain is the measured one, or nothing was gained or lost."""
        return abs(self.measured - 1) < EVEN or (self.predicted < 1) == (self.measured < 1)

    @property
    def kept(self) -> bool:
        """Whether the prediction alone would keep it."""
        return self.predicted < 1


def decisions(rows: Sequence[Compared]) -> list[Decision]:
    """Lossy passes against the model after the exact ones, these against the model as it was captured."""
    known = {(row.item.model, row.item.spec): row for row in rows}
    found = []
    for (model, spec), row in known.items():
        before = known.get((model, "" if spec == EXACT else EXACT))
        if spec and before is not None:
            found.append(Decision(model, spec, row.predicted / before.predicted, row.measured / before.measured))
    return found


def summary(found: Sequence[Decision]) -> str:
    """Signs, ranks and what would have been kept."""
    clear = [one for one in found if abs(one.measured - 1) >= EVEN]
    slow = [one for one in found if one.kept and one.measured > SLOWER]
    order = rank([one.predicted for one in found], [one.measured for one in found])
    lines = [
        "| | found | goal |", "|---|---:|---:|",
        f"| (model, pass, setting) | {len(found)} | 60 |",
        f"| sign of the gain right | {sum(one.right for one in found) / len(found):.1%} | 95 % |",
        f"| the same, of the {len(clear)} that change the time by 2 % or more "
        f"| {sum(one.right for one in clear) / max(1, len(clear)):.1%} | |",
        f"| rank correlation of the gains | {order:.3f} | 0.9 |",
        f"| kept by prediction, but slower by more than 2 % | {len(slow)} | 0 |",
    ]  # fmt: skip
    return "\n".join(lines)


def table(found: Sequence[Decision]) -> str:
    """Every triple."""
    lines = ["| model | pass and setting | predicted | measured | sign |", "|---|---|---:|---:|---|"]
    for one in sorted(found, key=lambda item: (item.model, item.measured)):
        spec = "exact passes" if one.spec == EXACT else f"`{one.spec}`"
        sign = "right" if one.right else "**wrong**"
        lines.append(f"| {one.model} | {spec} | {one.predicted:.2f} | {one.measured:.2f} | {sign} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if not RUN.exists():
        print("skipped: nothing has been measured yet, see benchmarks/cpu_cost.py --measure")
        return 0
    run: dict[str, Any] = json.loads(RUN.read_text(encoding="utf-8"))
    found = decisions(list(compared(machine(run), run)))
    text = "\n\n".join([summary(found), _ABOUT, table(found)])
    print(text)
    if given.write:
        write("decisions", "Decisions by predicted gain", text)
    return 0


_ABOUT = """ONNX Runtime, batch 1, all cores; each version of a model interleaved with the others. Times are multiples \
of what they were before the pass: after the exact passes for a lossy one, as captured for the exact ones themselves. \
A measured difference below 2 % counts as right with either sign in the first line of signs; the second leaves it out. \
Before the rule that static-shaped quantized linear layers stay in floating point, which came after a look at these \
rows, three more signs were wrong. In `optimize` a pass is dropped only where it is measured not to pay, so that \
nothing slower ships."""


if __name__ == "__main__":
    sys.exit(main())
