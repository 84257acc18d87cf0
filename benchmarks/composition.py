"""Passes in pairs: every ordered pair of kinds on every model, whether it may be, and whether it holds.

Run: python benchmarks/composition.py [--models zoo:digits-cnn,...] [--rows FILE] [--write]
Rows are appended to ``--rows`` as they come, and models that stand there already are not run again.
A legal pair passes where the pipeline keeps both passes or says for every place why one has nothing to do, its
outputs stay within the budget, and ONNX Runtime computes what the program does, at every size. An illegal pair must be
refused before the model is looked at.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from itertools import permutations
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.planner import own_data
from benchmarks.results import FOLDER, append_row, read_rows, write

MODELS = (
    "zoo:digits-cnn,zoo:digits-mobile,zoo:digits-vit,zoo:mnist-cnn,zoo:text-encoder,zoo:tiny-lm,zoo:convnext,zoo:swin,"
    "zoo:decoder,zoo:moe"
)
KINDS = {
    "prune": "prune{ratio=0.2;of=flops}",
    "2:4": "sparsify{anyway=true}",
    "int8": "quantize{anyway=true}",
    "int4 weights": "quantize-weights",
    "attention": "substitute-attention{error=0.08;anyway=true}",
    "tokens": "merge-tokens{share=0.3;schedule=decreasing}",
}
BUDGET = 0.2


def refused(first: str, then: str) -> str:
    """Why a pair is refused; empty where it is legal. No model is looked at: there is none of this name."""
    import tersor
    from tersor.errors import ModelFileError, UsageError

    try:
        tersor.optimize("/nowhere/model.onnx", passes=f"{KINDS[first]},{KINDS[then]}", progress=False)
    except UsageError as error:
        return str(error)
    except (ModelFileError, OSError):
        return ""
    return ""


class Bench:
    """One model, captured and made ready once."""

    def __init__(self, name: str) -> None:
        from tersor.calibration_data import calibration_inputs, listed
        from tersor.capture import load
        from tersor.models_zoo.catalog import load as entry_of
        from tersor.passes import EXACT
        from tersor.pipeline import Lossy, Reference, run
        from tersor.progress import Silent
        from tersor.quality import Data, Quality
        from tersor.repair import repairer
        from tersor.spec import parse
        from tersor.target import detect

        original, entry = load(name), entry_of(name)
        extra = calibration_inputs(original, listed(own_data(name) or entry.calibration))
        data = Data.split(original.inputs, extra)
        quality = Quality.of(original, entry.evaluator, BUDGET, data)
        self.start = run(original, parse(EXACT), Reference.of(original, extra[:4]))
        self.lossy = Lossy(quality, data, detect(), repairer("least-squares", Silent(), 0), backend="onnxruntime")

    def pair(self, first: str, then: str) -> dict[str, Any]:
        """What became of both passes, and of the artefact."""
        from tersor.backend import find_backend
        from tersor.lower import compile_checked
        from tersor.pipeline import extend
        from tersor.search.order import CLEAN
        from tersor.spec import parse

        passes = parse(f"{KINDS[first]},{','.join(CLEAN)},{KINDS[then]},{','.join(CLEAN)}")
        made = extend(self.start, passes, self.lossy)
        steps = [step for step in made.steps[len(self.start.steps) :] if not step.exact]
        problems = [f"{step.spec}: {step.reason}" for step in made.steps if step.status == "dropped"]
        try:
            compile_checked(made.program, find_backend("onnxruntime"), made.reference, self.lossy.target)
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}".splitlines()[0][:200])
        lost = self.lossy.quality.lost(self.lossy.quality.measure(made.program))
        idle = [step.spec for step in steps if step.status == "unchanged"]
        return {"problems": problems, "lost": lost, "idle": idle, "ok": not problems and lost <= BUDGET}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--rows", type=Path, default=FOLDER / "rows" / "composition.jsonl")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    reasons = {pair: refused(*pair) for pair in permutations(KINDS, 2)}
    rows = read_rows(options.rows)
    for name in options.models.split(","):
        if name in rows:
            continue
        bench = Bench(name)
        pairs = {}
        for first, then in (pair for pair, reason in reasons.items() if not reason):
            try:
                pairs[f"{first}, {then}"] = bench.pair(first, then)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                pairs[f"{first}, {then}"] = {"problems": [problem], "lost": None, "idle": [], "ok": False}
            print(name, first, then, pairs[f"{first}, {then}"], flush=True)
        rows[name] = {"model": name, "pairs": pairs}
        append_row(options.rows, rows[name])
    text = table(rows, reasons)
    print(text)
    if options.write:
        write("composition", "Passes in pairs", text)
    return 0


def table(rows: dict[str, dict[str, Any]], reasons: dict[tuple[str, str], str]) -> str:
    found = [pair for row in rows.values() for pair in row["pairs"].values()]
    passed, both = sum(pair["ok"] for pair in found), sum(pair["ok"] and not pair["idle"] for pair in found)
    lines = [
        f"{passed} of {len(found)} legal pairs on {len(rows)} models pass: both passes are kept or find nothing to do, "
        f"the loss is within {BUDGET:.0%}, and ONNX Runtime agrees with the program at every size. In {both} both "
        "passes changed something.",
        "",
        "The first pass is the row. A cell is the number of models that pass, and in brackets those where both passes "
        "changed something.",
        "",
        "| | " + " | ".join(KINDS) + " |",
        "|---" * (len(KINDS) + 1) + "|",
    ]
    for first in KINDS:
        cells = [cell(first, then, rows, reasons) for then in KINDS]
        lines.append(f"| {first} | {' | '.join(cells)} |")
    lines += ["", "Refused before any work:", ""]
    lines += [f"- {first}, then {then}: {reason}" for (first, then), reason in reasons.items() if reason]
    failed = [
        f"- {name}, {pair}: {'; '.join(found['problems']) or format(found['lost'], '.2%') + ' lost'}"
        for name, row in rows.items()
        for pair, found in row["pairs"].items()
        if not found["ok"]
    ]
    return "\n".join([*lines, *(["", "Did not pass:", "", *failed] if failed else [])])


def cell(first: str, then: str, rows: dict[str, dict[str, Any]], reasons: dict[tuple[str, str], str]) -> str:
    if first == then:
        return ""
    if reasons[first, then]:
        return "refused"
    pairs = [row["pairs"][f"{first}, {then}"] for row in rows.values() if f"{first}, {then}" in row["pairs"]]
    return f"{sum(pair['ok'] for pair in pairs)} ({sum(pair['ok'] and not pair['idle'] for pair in pairs)})"


if __name__ == "__main__":
    sys.exit(main())
