"""Accuracy after one-shot 2:4 pruning without labels, and of sparse integer layers, on the trained models of the zoo.

Run: python benchmarks/sparse_quality.py [--models zoo:digits-cnn,...] [--rows FILE] [--table] [--write]. Every layer
that the pattern fits is pruned, whatever it gains. Rows are appended to ``--rows`` as they come; the table is made of
the last ones of each model and contestant there.
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

from benchmarks.prune_quality import BATCHES, Ours
from benchmarks.results import write

MODELS = "zoo:digits-cnn,zoo:digits-mobile,zoo:digits-vit,zoo:mnist-cnn,zoo:text-encoder"
HELD = 4
BEST = ("sparsify{compute=int8;anyway=True}",)
CONTESTANTS: dict[str, tuple[tuple[str, ...], str]] = {
    "magnitude": (("sparsify{method=magnitude;anyway=True}",), "none"),
    "Wanda": (("sparsify{method=wanda;anyway=True}",), "none"),
    "SparseGPT": (("sparsify{sweeps=0;anyway=True}",), "none"),
    "SparseGPT, refined": (BEST, "none"),
    "SparseGPT, refined, recovered": (BEST, "least-squares"),
    "permuted, refined, recovered": (("permute", *BEST), "least-squares"),
    "dense, int8": (("quantize{noise=1}",), "none"),
    "refined, recovered, int8": ((*BEST, "quantize{noise=1}"), "least-squares"),
    "refined, recovered, int8 by GPTQ": ((*BEST, "quantize{noise=1;rounding=gptq}"), "least-squares"),
}
"""Passes, and the recovery after each."""

Row = dict[str, Any]


class Study:
    """One model; results of passes are shared between contestants that begin alike."""

    def __init__(self, name: str) -> None:
        from tersor.models_zoo.catalog import load

        self.entry: Any = load(name)
        data = list(replace(self.entry.calibration, count=BATCHES + HELD))
        self.ours = Ours(self.entry, data)
        self.held, self.ours.calibration = self.ours.calibration[BATCHES:], self.ours.calibration[:BATCHES]
        self.done: dict[tuple[tuple[str, ...], str], Any] = {
            ((), recovery): self.ours.program for _, recovery in CONTESTANTS.values()
        }

    def after(self, specs: tuple[str, ...], recovery: str) -> Any:
        from tersor.context import Context
        from tersor.progress import Silent
        from tersor.refresh import refresh
        from tersor.repair import repairer
        from tersor.spec import parse

        if (specs, recovery) not in self.done:
            before = self.after(specs[:-1], recovery)
            program, context = before.clone(), Context(calibration=self.ours.calibration)
            (item,) = parse(specs[-1])
            item(program, context)
            refresh(program)
            program.prune_weights()
            repair = None if item.exact else repairer(recovery, Silent(), 0)
            if repair is not None:
                program, _ = repair(before, program, context)
            self.done[specs, recovery] = program
        return self.done[specs, recovery]

    def row(self, specs: tuple[str, ...], recovery: str) -> Row:
        started = time.perf_counter()
        program = self.after(specs, recovery)
        return {
            "accuracy": self.entry.evaluator(program),
            "error": self._error(program),
            "sparse": sparse_share(program),
            "seconds": time.perf_counter() - started,
        }

    def _error(self, program: Any) -> float:
        """Energy of what is lost of the outputs, on inputs that no pass has seen."""
        lost = whole = 0.0
        for flat in self.held:
            for got, wanted in zip(program.run(flat), self.ours.program.run(flat), strict=True):
                lost += float((got.double() - wanted.double()).square().sum())
                whole += float(wanted.double().square().sum())
        return lost / whole


def sparse_share(program: Any) -> float:
    """Share of the parameters of layers that belong to 2:4 sparse weights."""
    from tersor.sparse.layout import as_matrix
    from tersor.sparse.pack import TWO_FOUR
    from tersor.sparse.pattern import is_pattern

    names = {str(node.target) for node in program.graph.find_nodes(op="get_attr") if node.users}
    weights = [program.weights[name] for name in names]
    weights = [w for w in weights if w.dim() >= 2 and w.numel() >= 64]
    return sum(w.numel() for w in weights if is_pattern(as_matrix(w), TWO_FOUR)) / sum(w.numel() for w in weights)


def study(name: str) -> Iterator[Row]:
    whole = Study(name)
    original = whole.entry.evaluator(whole.ours.program)
    for tool, (specs, recovery) in CONTESTANTS.items():
        try:
            row = whole.row(specs, recovery)
        except Exception as error:
            row = {"why": f"{type(error).__name__}: {error}".splitlines()[0][:120]}
        yield {"model": name, "original": original, "tool": tool, **row}


def summary(rows: list[Row]) -> str:
    last = {(row["model"], row["tool"]): row for row in rows}
    lines = [
        "Accuracy on held-out data after one-shot 2:4 pruning of every layer that the pattern fits, with unlabelled "
        "calibration data and no retraining. *loss ratio* is the loss of accuracy against that of magnitude pruning, "
        "*error ratio* the same for the energy of the change of the outputs on inputs that nothing was fitted on; "
        "*sparse* is the share of layers' parameters that are in 2:4 weights.",
        "",
        "| model | contestant | accuracy | loss | loss ratio | error | error ratio | sparse | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (model, tool), row in last.items():
        name = f"{model} ({row['original']:.3f})"
        if "accuracy" not in row:
            lines.append(f"| {name} | {tool} ||||||| {row['why'].replace('|', '/')} |")
            continue
        base, loss = last.get((model, "magnitude"), {}), row["original"] - row["accuracy"]
        worst = base.get("original", 0.0) - base.get("accuracy", 0.0)
        ratios = (
            f"{loss / worst:.2f}" if worst > 0 else "",
            f"{row['error'] / base['error']:.2f}" if "error" in base else "",
        )
        lines.append(
            f"| {name} | {tool} | {row['accuracy']:.3f} | {loss:.3f} | {ratios[0]} | {row['error']:.2g} | {ratios[1]} "
            f"| {row['sparse']:.0%} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--rows", type=Path, default=Path("out/sparse_quality.jsonl"))
    parser.add_argument("--table", action="store_true", help="run nothing, only print the table of the rows there are")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    with options.rows.open("a", encoding="utf-8") as file:
        for name in [] if options.table else options.models.split(","):
            for row in study(name):
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(row, flush=True)
    text = summary([json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()])
    print(text)
    if options.write:
        write("sparse_quality", "Accuracy after 2:4 pruning without labels", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
