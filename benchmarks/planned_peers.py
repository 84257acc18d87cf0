"""At the same quality: what the planner makes of a model beside the best that its users have, in one interleaved run.

Run: python benchmarks/planned_peers.py [--models zoo:digits-cnn,MiniLM,...] [--seconds 20] [--write]
Each contestant may lose one percent of the metric. Of the eight-bit tools every variant is tried, and of Torch-Pruning
every share; the fastest that stays within the budget counts. Nobody is told anything of a model but its calibration
data; the metric is the same for all, and so are the inputs that are timed. Rows are appended to ``--rows`` as they
come, and models that stand there already are not run again; a search that was cut short goes on from ``--studies``.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import sys
import tempfile
import types
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.quantize_cases import TASKS, Run, Task, arrays, onnxruntime_run, openvino_run
from benchmarks.quantize_tools import LAYERS, nncf_openvino, ort_dynamic, ort_static, runner
from benchmarks.results import FOLDER, append_row, read_rows, write

MODELS = "EfficientNet-Lite0,MiniLM,PP-OCRv4 recognition,zoo:mnist-cnn,zoo:digits-vit,zoo:text-encoder"
BUDGET = 0.01
EIGHT_BITS: dict[str, list[tuple[str, Callable[..., Any]]]] = {
    "ONNX Runtime int8": [
        ("static", partial(ort_static, prepare=True)),
        ("static, per channel", partial(ort_static, prepare=True, per_channel=True)),
        ("static, only layers", partial(ort_static, prepare=True, per_channel=True, op_types_to_quantize=LAYERS)),
        ("dynamic", partial(ort_dynamic, prepare=True)),
    ],
    "OpenVINO + NNCF int8": [("default", nncf_openvino), ("mixed", partial(nncf_openvino, preset="mixed"))],
}
SHARES = (0.5, 0.3, 0.2, 0.1, 0.05)
"""What Torch-Pruning may remove of the channels, the most first."""


class Contest:
    """One task: who takes part, and why others do not."""

    def __init__(self, name: str, folder: Path) -> None:
        self.task: Task = TASKS[name](folder)
        self.folder = folder
        self.given = self.task.inputs if self.task.inputs is not None else self.task.calibration[0]
        self.arrays = arrays(self.given)
        self.whole = self.score(onnxruntime_run(self.task.file, threads()))
        self.calls: dict[str, Callable[[], Any]] = {}
        self.scores: dict[str, float] = {}
        self.told: dict[str, str] = {}

    def score(self, run: Run) -> float:
        """The first of the task's scores: more is better."""
        return next(iter(self.task.judge(run).values()))

    def enter(self, label: str, make: Callable[[], Run | None]) -> None:
        """Judge and keep a contestant; remember why where it fails or loses too much."""
        try:
            run = make()
            if run is None:
                return
            score = self.score(run)
            if score < (1 - BUDGET) * self.whole - 1e-12:
                self.told[label] = f"{score:.4f} of {self.whole:.4f} is too little"
                return
            self.calls[label], self.scores[label] = partial(run, *self.arrays), score
        except Exception as error:
            self.told[label] = f"{type(error).__name__}: {error}".splitlines()[0][:160]

    def peers(self) -> None:
        """Everything but us."""
        file, task = self.task.file, self.task
        self.enter("torch eager", lambda: None if isinstance(task.model, str) else eager(task.model, task.inputs))
        self.enter("Inductor", self._inductor)
        self.enter("ONNX Runtime", lambda: onnxruntime_run(file, threads()))
        self.enter("OpenVINO", lambda: openvino_run(file, threads()))
        for tool, variants in EIGHT_BITS.items():
            for variant, make in variants:
                path = self.folder / f"{tool} {variant}.onnx".replace(" ", "-")
                self.enter(f"{tool}, {variant}", lambda make=make, path=path: self._eight_bits(make, path))  # type: ignore[misc]
        self.enter("Torch-Pruning + ONNX Runtime", self._pruned)

    def _eight_bits(self, make: Callable[..., Any], path: Path) -> Run:
        if "preset" in getattr(make, "keywords", {}):
            import nncf

            make = partial(nncf_openvino, preset=nncf.QuantizationPreset.MIXED)
        return runner(make(self.task, path), threads=threads())

    def _inductor(self) -> Run:
        from tersor.backend import find_backend
        from tersor.capture import load
        from tersor.target import detect

        task = self.task
        program = load(task.model, task.inputs, task.dynamic) if task.inputs is not None else load(task.model)
        compiled = find_backend("inductor").compile(program, detect())
        return numeric(lambda *tensors: compiled(*tensors))

    def _pruned(self) -> Run | None:
        """Torch-Pruning's largest share that stays within the budget, and its file in ONNX Runtime."""
        from benchmarks.peers import export
        from benchmarks.prune_quality import _torch_pruned

        if isinstance(self.task.model, str):
            return None
        entry = types.SimpleNamespace(model=copy.deepcopy(self.task.model), inputs=self.task.inputs)
        for share in SHARES:
            path = self.folder / f"pruned-{share}.onnx"
            export(
                _torch_pruned(entry, self.task.calibration, "magnitude", share),
                self.task.inputs,
                path,
                self.task.dynamic,
            )
            run = onnxruntime_run(path, threads())
            if self.score(run) >= (1 - BUDGET) * self.whole:
                return run
        raise ValueError(f"not even {SHARES[-1]:.0%} of the channels may go")

    def ours(self, study: Path) -> Any:
        """The plan, entered; the whole result."""
        import tersor

        task, named = self.task, isinstance(self.given, dict)
        names = list(self.given) if named else []

        def metric(model: Any) -> float:
            def call(*tensors: Any) -> Any:
                return model(**dict(zip(names, tensors, strict=True))) if named else model(*tensors)

            return self.score(numeric(call))

        fast = tersor.optimize(
            task.model, self.given, dynamic=task.dynamic, calibration=task.calibration, metric=metric, budget=BUDGET,
            study=study, resume=True, progress=True,
        )  # fmt: skip
        self.enter("Tersor, planned", lambda: numeric(fast.call))
        return fast


def threads() -> int:
    from tersor.target import detect

    return detect().threads


def numeric(call: Callable[..., Any]) -> Run:
    """A function of tensors as one of arrays."""
    import torch

    def run(*given: Any) -> list[Any]:
        with torch.no_grad():
            made = call(*[torch.from_numpy(item) for item in given])
        if hasattr(made, "values") and not isinstance(made, torch.Tensor):
            made = tuple(made.values())
        return [item.numpy() for item in (made if isinstance(made, tuple | list) else (made,)) if item is not None]

    return run


def eager(model: Any, inputs: Any) -> Run:
    named = list(inputs) if isinstance(inputs, dict) else None
    return numeric(lambda *given: model(**dict(zip(named, given, strict=True))) if named else model(*given))


def examine(name: str, study: Path, seconds: float) -> dict[str, Any]:
    """Medians, scores and ratios of one model."""
    from tersor.measure import interleaved, paired

    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(name, Path(folder))
        contest.peers()
        fast = contest.ours(study)
        timings = {item.name: item for item in interleaved(contest.calls, seconds=seconds)}
        others = [label for label in timings if label != "Tersor, planned"]
        best = min(others, key=lambda label: timings[label].median_ms)
        row: dict[str, Any] = {
            "model": name, "score": contest.whole, "best": best, "told": contest.told, "plan": fast.report.plan.chosen,
            "backend": fast.report.backend, "ms": {label: item.median_ms for label, item in timings.items()},
            "scores": contest.scores,
        }  # fmt: skip
        if "Tersor, planned" in contest.calls:
            found = paired(contest.calls["Tersor, planned"], contest.calls[best], seconds=seconds / 2)
            row |= {"faster": found.median, "low": found.low, "high": found.high}
        return row


def table(rows: dict[str, dict[str, Any]]) -> str:
    groups = ["torch eager", "Inductor", "ONNX Runtime", *EIGHT_BITS, "OpenVINO", "Torch-Pruning + ONNX Runtime"]
    columns = [*groups, "Tersor, planned"]
    lines = [
        f"Median milliseconds of one run, interleaved, {threads()} threads, for contestants that lose at most "
        f"{BUDGET:.0%} of the metric; of several variants the fastest. The last columns compare Tersor with the best "
        "of the others, the two alone in neighbouring turns, with its 95 % interval.",
        "",
        "| model | metric | " + " | ".join(columns) + " | Tersor's metric | plan | times as fast | as |",
        "|---" * (len(columns) + 6) + "|",
    ]
    gains = []
    for name, row in rows.items():
        cells = [_cell(row["ms"], label) for label in columns]
        gain = f"{row['faster']:.2f} ({row['low']:.2f}-{row['high']:.2f})" if "faster" in row else "-"
        gains += [row["faster"]] if "faster" in row else []
        score = row["scores"].get("Tersor, planned")
        lines.append(
            f"| {name} | {row['score']:.4f} | {' | '.join(cells)} | {'-' if score is None else format(score, '.4f')} "
            f"| `{row['plan'] or 'exact'}`, {row['backend']} | {gain} | {row['best']} |"
        )
    if gains:
        mean = math.exp(statistics.fmean(map(math.log, gains)))
        lines += ["", f"Geometric mean: {mean:.2f} times as fast as the best of the others."]
    told = [f"- {name}, {label}: {why}" for name, row in rows.items() for label, why in row["told"].items()]
    return "\n".join([*lines, "", "Could not take part, or lost too much:", "", *told])


def _cell(ms: dict[str, float], label: str) -> str:
    found = [value for name, value in ms.items() if name == label or name.startswith(f"{label}, ")]
    if label == "OpenVINO":
        found = [value for name, value in ms.items() if name == label]
    return f"{min(found):.3g}" if found else "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rows", type=Path, default=FOLDER / "rows" / "planned_peers.jsonl")
    parser.add_argument("--studies", type=Path, default=Path(tempfile.gettempdir()) / "planned-peers")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    options.studies.mkdir(parents=True, exist_ok=True)
    rows = read_rows(options.rows)
    for name in options.models.split(","):
        if name in rows:
            continue
        study = options.studies / f"{name.replace(':', '-').replace(' ', '-')}.sqlite3"
        rows[name] = examine(name, study, options.seconds)
        append_row(options.rows, rows[name])
        print(rows[name], flush=True)
    text = table(rows)
    print(text)
    if options.write:
        write("planned_peers", "Plans and peers at the same quality, on this CPU", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
