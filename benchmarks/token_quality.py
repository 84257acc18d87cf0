"""Accuracy against measured time of token reduction, without training, on trained models; beside ToMe as a patch.

Run: python benchmarks/token_quality.py [--models zoo:mnist-vit,...] [--seconds 6] [--rows FILE] [--table] [--write]
Rows are appended to ``--rows`` as they come; models and settings that stand there already are not run again. ToMe is
written from its paper as a patch of the module's blocks (tests/tokens/tome_reference.py) and goes the same way: exact
passes, ONNX file, runtime. Each file is timed against the file without reduction, in pairs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import FOLDER, write

MODELS = "zoo:mnist-vit,zoo:text-encoder"
EXACT = "fold-constants,canonicalize,fold-batch-norm,common-subexpressions,remove-noops,dead-code"
RUNTIMES = ("onnxruntime", "openvino")
SHARES = (0.5, 0.8)
BATCHES = 8
SAME = 1e-3
"""Of the largest logit: what the patch and the pass may differ by where they merge the same tokens."""

Row = dict[str, Any]


def settings() -> Iterator[str]:
    """Every method at several shares, and other schedules of the two that cost least."""
    for share in SHARES:
        for method in ("bipartite", "energy", "criteria"):
            yield f"merge-tokens{{method={method};share={share}}}"
        for method in ("class", "class-only", "received", "page-rank", "diverse"):
            yield f"prune-tokens{{method={method};share={share}}}"
        for schedule in ("decreasing", "early", "learned"):
            yield f"merge-tokens{{share={share};schedule={schedule}}}"
            yield f"prune-tokens{{share={share};schedule={schedule}}}"
    yield "prune-tokens{method=received;schedule=threshold}"


class Study:
    """One model with its exact passes, and the runtimes it is timed in."""

    def __init__(self, name: str, batch: int, seconds: float) -> None:
        from tersor.models_zoo.catalog import load

        self.name, self.batch, self.seconds = name, batch, seconds
        self.entry: Any = load(name)
        data = list(replace(self.entry.calibration, count=BATCHES))
        self.program = self._captured(self.entry.model)
        flatten = self.program.interface.flatten
        self.calibration = tuple(flatten(*(((), item) if isinstance(item, dict) else (item, {}))) for item in data)
        self.inputs = tuple(value[: self.batch].contiguous() for value in self.calibration[0])
        self.before = {runtime: self._compiled(self.program, runtime) for runtime in RUNTIMES}
        self.accuracy = self.entry.evaluator(self.program)

    def _captured(self, model: Any) -> Any:
        from tersor.capture import load
        from tersor.pipeline import Reference, run
        from tersor.spec import parse

        program = load(model, self.entry.inputs, self.entry.dynamic)
        return run(program, parse(EXACT), Reference.of(program)).program

    def _compiled(self, program: Any, runtime: str) -> Any:
        from tersor.backend import find_backend
        from tersor.target import detect

        return find_backend(runtime).compile(program, detect())

    def after(self, spec: str) -> Row:
        """What one setting of a pass gives."""
        from tersor.context import Context
        from tersor.pipeline import Reference, run
        from tersor.refresh import refresh
        from tersor.spec import parse

        program, context = self.program.clone(), Context(calibration=self.calibration)
        started = time.perf_counter()
        (item,) = parse(spec)
        item(program, context)
        seconds = time.perf_counter() - started
        if not context.taken:
            return {"why": "; ".join(sorted({site.detail for site in context.skipped}))[:120]}
        refresh(program)
        program = run(program, parse(EXACT), Reference.of(program)).program
        row = self.measured(program)
        return {**row, "left": _left(program, self.inputs), "pass seconds": seconds}

    def patched(self, share: float) -> Row:
        """ToMe as a patch that removes as many tokens at each layer; the same logits mean the same tokens."""
        from tersor.context import Context
        from tersor.spec import parse
        from tersor.tokens.rates import schedule
        from tests.tokens.tome_reference import Patch

        blocks: Any = self.entry.model.blocks
        tokens = self.entry.model.position.shape[1]
        patch = Patch(self.entry.model, schedule(tokens - 1, len(blocks), share)).eval()
        program = self._captured(patch)
        made, context = self.program.clone(), Context(calibration=self.calibration)
        (item,) = parse(f"merge-tokens{{share={share}}}")
        item(made, context)
        ours, wanted = (each.run(self.calibration[0])[0] for each in (made, program))
        away = float((ours - wanted).abs().max() / wanted.abs().max())
        return {**self.measured(program), "same": away < SAME, "away": away}

    def measured(self, program: Any) -> Row:
        """Accuracy, and the time of both runtimes' files as a share of that without reduction."""
        from tersor.measure import paired

        row: Row = {"accuracy": self.entry.evaluator(program)}
        for runtime in RUNTIMES:
            after, before = self._compiled(program, runtime), self.before[runtime]
            ratio = paired(lambda: before(*self.inputs), lambda: after(*self.inputs), seconds=self.seconds)  # noqa: B023
            row[runtime] = [1 / ratio.median, 1 / ratio.high, 1 / ratio.low]
        return row


def _left(program: Any, inputs: Any) -> str:
    """The number of keys of every attention, in order."""
    from tersor.rewrite_values import key

    nodes = [node for node in program.nodes if key(node) == "scaled_dot_product_attention"]
    return " ".join(str(node.args[1].meta["val"].shape[-2]) for node in nodes)


def study(name: str, batch: int, seconds: float, known: set[tuple[str, str]]) -> Iterator[Row]:
    whole: Study | None = None
    todo = [(spec, "ours") for spec in settings()]
    if name.endswith("-vit"):
        todo += [(f"ToMe as a patch, share={share}", "patch") for share in SHARES]
    for spec, kind in todo:
        if (name, spec) in known:
            continue
        whole = whole or Study(name, batch, seconds)
        try:
            row = whole.after(spec) if kind == "ours" else whole.patched(float(spec.split("=")[1]))
        except Exception as error:
            row = {"why": f"{type(error).__name__}: {error}".splitlines()[0][:120]}
        yield {"model": name, "setting": spec, "original": whole.accuracy, "batch": batch, **row}


def summary(rows: list[Row]) -> str:
    lines = [
        "Accuracy on held-out data of models whose tokens are reduced without any training, and how many times faster "
        "the ONNX file is than without reduction (exact passes on both sides, medians of neighbouring "
        "turns, 95 % interval in brackets). *tokens* are the keys of each attention.",
        "",
        *_best(rows),
        "",
        "| model | setting | tokens | accuracy | points lost | ONNX Runtime | OpenVINO |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda item: (item["model"], -_speed(item))):
        name = f"{row['model']} ({row['original']:.3f}), batch {row['batch']}"
        if "accuracy" not in row:
            lines.append(f"| {name} | {row['setting']} |||| {row['why'].replace('|', '/')} ||")
            continue
        note = {True: "same tokens as merge-tokens", False: f"logits differ by {row.get('away', 0):.1e}"}
        tokens = note[row["same"]] if "same" in row else row.get("left") or "attention written out"
        lines.append(
            f"| {name} | {row['setting']} | {tokens} | {row['accuracy']:.3f} | {_lost(row):.1f} | "
            + " | ".join("{:.2f} ({:.2f} to {:.2f})".format(*row[runtime]) for runtime in RUNTIMES)
            + " |"
        )
    return "\n".join(lines)


def _best(rows: list[Row]) -> Iterator[str]:
    """For each model what loses least at two speeds in ONNX Runtime."""
    yield "| model | at least | loses least | points lost | ONNX Runtime |"
    yield "|---|---|---|---|---|"
    for model in dict.fromkeys(row["model"] for row in rows):
        for speed in (1.5, 1.8):
            fast = [r for r in rows if r["model"] == model and _speed(r) >= speed and r["setting"][0] != "T"]
            if fast:
                best = min(fast, key=lambda row: (_lost(row), -_speed(row)))
                yield f"| {model} | {speed} | `{best['setting']}` | {_lost(best):.1f} | {_speed(best):.2f} |"
            else:
                yield f"| {model} | {speed} | none is as fast ||||"


def _speed(row: Row) -> float:
    return float(row[RUNTIMES[0]][0]) if "accuracy" in row else 0.0


def _lost(row: Row) -> float:
    return 100 * float(row["original"] - row["accuracy"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=6.0, help="time for measuring each file in each runtime")
    parser.add_argument("--rows", type=Path, default=FOLDER / "rows" / "token_quality.jsonl")
    parser.add_argument("--table", action="store_true", help="run nothing, only print the table of the rows there are")
    parser.add_argument("--write", action="store_true", help="write the table to docs/results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()] if options.rows.exists() else []
    if not options.table:
        known = {(row["model"], row["setting"]) for row in rows}
        with options.rows.open("a", encoding="utf-8") as file:
            for name in options.models.split(","):
                for row in study(name, options.batch, options.seconds, known):
                    rows.append(row)
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                    print(json.dumps(row), flush=True)
    text = summary(rows)
    print(text)
    if options.write:
        write("token_quality", "Token reduction: accuracy against measured time", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
