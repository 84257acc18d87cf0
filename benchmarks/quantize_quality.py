"""What eight-bit quantization costs: our one call beside ONNX Runtime, NNCF, ModelOpt and torchao, same data, one run.

Run: python benchmarks/quantize_quality.py [--only TEXT] [--again] [--latency SECONDS] [--rows FILE] [--table] [--write]
Each contestant makes its version of each model from the same calibration data, and that is judged at one thread on data
that calibration never saw. Rows are appended as they come and not made again. ``--latency`` times the files that are
there, float and quantized, in ONNX Runtime and OpenVINO, interleaved, batch 1: run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.pool import resume
from benchmarks.quantize_cases import FINE, TASKS, WEIGHTS, Task, arrays
from benchmarks.quantize_tools import TOOLS, WEIGHT_TOOLS, runner
from benchmarks.results import read_rows, write

ROWS, TIMES, FILES = Path("out/quantize_quality.jsonl"), Path("out/quantize_latency.jsonl"), Path("out/quantized")
FLOAT, ENOUGH, LINE = "float", 0.002, " | "
"""``ENOUGH``: a loss below this counts as none; the float model is a contestant too."""

Row = dict[str, Any]


def cases(only: str) -> list[str]:
    """Every model with every contestant, those of a model together; ModelOpt last.

    It replaces parts of ONNX Runtime's quantization tool in the process that imports it, which then fails.
    """
    every = [
        f"{task}{LINE}{tool}" for task in TASKS for tool in (FLOAT, *TOOLS, *(WEIGHT_TOOLS if task in WEIGHTS else ()))
    ]
    every.sort(key=lambda case: "ModelOpt" in case)
    return [case for case in every if any(part in case for part in only.split(";"))]


def examine(case: str) -> Row:
    """Quantize and judge."""
    name, tool = case.split(LINE)
    try:
        task = _task(name)
        started = time.process_time()
        path = _place(name) / f"{_plain(tool)}.onnx"
        made = task.file if tool == FLOAT else (TOOLS | WEIGHT_TOOLS)[tool](task, path)
        took = time.process_time() - started
        scores = task.judge(runner(made))
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return {"status": "failed", "why": f"{type(error).__name__}: {lines[0][:160]}"}
    row: Row = {"status": "ok", "why": "", "scores": scores, "took": took}
    if isinstance(made, Path):
        row |= {"file": str(made), "bytes": sum(path.stat().st_size for path in _parts(made)), "share": share(made)}
    return row


def share(file: Path) -> float | None:
    """Share of a file's constants of two and more dimensions that are eight-bit integers, by number of entries."""
    import onnx

    if file.suffix != ".onnx":
        return None
    graph = onnx.load(file).graph
    held = [
        *graph.initializer,
        *(item.t for node in graph.node if node.op_type == "Constant" for item in node.attribute),
    ]
    sizes = dict.fromkeys((True, False), 0)
    for item in held:
        if len(item.dims) > 1:
            small = item.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
            sizes[small] += math.prod(item.dims)
    return sizes[True] / max(sum(sizes.values()), 1)


@functools.lru_cache(maxsize=1)
def _task(name: str) -> Task:
    return TASKS[name](_place(name))


def _place(name: str) -> Path:
    folder = FILES / _plain(name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def _parts(file: Path) -> list[Path]:
    return [path for path in (file, file.with_suffix(".bin")) if path.exists()]


def latencies(name: str, rows: dict[str, Row], seconds: float) -> Row:
    """Milliseconds of the float model in ONNX Runtime, and what the others take of it, by contestant and runtime."""
    from tersor.measure import interleaved

    given = [item[:1] for item in arrays(_task(name).calibration[0])]
    calls, missing = {}, {}
    for tool in (FLOAT, *TOOLS):
        file = Path(rows.get(f"{name}{LINE}{tool}", {}).get("file") or "none")
        for runtime in ("ONNX Runtime", "OpenVINO") if file.suffix == ".onnx" else ("OpenVINO",):
            if not file.exists():
                continue
            try:
                call = functools.partial(runner(file, runtime, threads=0), *given)
                call()
                calls[f"{tool}{LINE}{runtime}"] = call
            except Exception as error:
                missing[f"{tool}{LINE}{runtime}"] = f"{type(error).__name__}: {error}".splitlines()[0][:160]
    times = {item.name: item.median_ms for item in interleaved(calls, seconds=seconds * len(calls))}
    base = times[f"{FLOAT}{LINE}ONNX Runtime"]
    return {"model": name, "ms": base, "ratios": {key: value / base for key, value in times.items()}, "why": missing}


def summary(rows: dict[str, Row], times: dict[str, Row]) -> str:
    """Ours against the best of the others, and then everything."""
    four = {name: _of(name, rows, WEIGHT_TOOLS) for name in WEIGHTS}
    head = (
        "| model | score | float | best of the others | its loss | ours | loss | goal | finer score | others' | ours |"
    )
    lines = [
        "Eight-bit weights and activations from the same calibration data. *Loss* is that of the first score against "
        "the float model; *goal*: at most half of the best other contestant's, or below 0.2 points. Times are shares "
        "of what the float model takes in ONNX Runtime, batch 1; *seconds* are processor time for making the file. "
        "What is not listed has not been run.",
        "",
        head,
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(line for name in TASKS for line in _against(name, _of(name, rows, TOOLS))),
        "",
        "Four-bit weights in groups of 32, all linear layers, arithmetic in floating point. *Lost* is what is added to "
        "the finer score; *share* that of plain rounding.",
        "",
        "| model | contestant | score | finer score | lost | share |",
        "|---|---|---|---|---|---|",
        *(line for name, made in four.items() for line in _four(name, made)),
        "",
        "Everything, eight bits and four:",
        "",
        "| model | contestant | scores | loss | weights in int8 | ONNX Runtime | OpenVINO | seconds | MB | why not |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(line for name in TASKS for line in _everything(name, rows, times.get(name, {}).get("ratios", {}))),
    ]
    return "\n".join(lines)


def _of(name: str, rows: dict[str, Row], tools: Iterable[str]) -> dict[str, dict[str, float]]:
    """Scores by contestant that has some."""
    found = {tool: rows.get(f"{name}{LINE}{tool}", {}).get("scores") for tool in (FLOAT, *tools)}
    return {tool: scores for tool, scores in found.items() if scores}


def _four(name: str, made: dict[str, dict[str, float]]) -> list[str]:
    """What each way to four bits adds to the finer score, against our plain rounding."""
    plain = "Tersor, nearest"
    if FLOAT not in made or plain not in made:
        return []
    score, fine = (next(key for key in made[FLOAT] if (key in FINE) == wanted) for wanted in (False, True))
    base = made[plain][fine] - made[FLOAT][fine]
    lines = []
    for tool, scores in made.items():
        lost = scores[fine] - made[FLOAT][fine]
        share = "" if tool == FLOAT else f"{lost / base:.2f}"
        lines.append(
            f"| {name} | {tool} | {score} {scores[score]:.4f} | {fine} {scores[fine]:.4g} | {lost:.3g} | {share} |"
        )
    return lines


def _against(name: str, made: dict[str, dict[str, float]]) -> list[str]:
    others = [tool for tool in made if tool != FLOAT and not tool.startswith("Tersor")]
    if FLOAT not in made or not others:
        return []
    score = next(iter(made[FLOAT]))
    fine = next((key for key in made[FLOAT] if key in FINE), "")
    right = made[FLOAT][score]
    best = max(others, key=lambda tool: made[tool][score])
    finest = min((made[tool][fine] for tool in others), default=0.0) if fine else 0.0
    lines = []
    for tool in (tool for tool in made if tool.startswith("Tersor")):
        theirs, own = right - made[best][score], right - made[tool][score]
        goal = "yes" if own <= max(theirs / 2, ENOUGH) else "no"
        lines.append(
            f"| {name} | {score} | {right:.4f} | {best} | {theirs:.4f} | {tool} | {own:.4f} | {goal} "
            f"| {fine} | {f'{finest:.3g}' if fine else ''} | {f'{made[tool][fine]:.3g}' if fine else ''} |"
        )
    return lines


def _everything(name: str, rows: dict[str, Row], ratios: dict[str, float]) -> list[str]:
    lines = []
    right = rows.get(f"{name}{LINE}{FLOAT}", {}).get("scores", {})
    for tool in (FLOAT, *TOOLS, *WEIGHT_TOOLS):
        row = rows.get(f"{name}{LINE}{tool}")
        if row is None:
            continue
        if "scores" not in row:
            lines.append(f"| {name} | {tool} ||||||||{row['why'].replace('|', '/')} |")
            continue
        told = ", ".join(f"{key} {value:.4g}" for key, value in row["scores"].items())
        score, value = next(iter(row["scores"].items()))
        shares = [row.get("share"), *(ratios.get(f"{tool}{LINE}{runtime}") for runtime in ("ONNX Runtime", "OpenVINO"))]
        measured = " | ".join("" if item is None else f"{item:.2f}" for item in shares)
        lines.append(
            f"| {name} | {tool} | {told} | {right.get(score, value) - value:.4f} | {measured} "
            f"| {row['took']:.0f} | {row.get('bytes', 0) / 1e6:.1f} ||"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", default="", help="only rows with this text in 'model | contestant', or one of several, by ;"
    )
    parser.add_argument("--again", action="store_true", help="make rows that are there once more")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--times", type=Path, default=TIMES)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds of timing per file; 0 times nothing")
    parser.add_argument("--timeout", type=float, default=1800.0)
    parser.add_argument("--table", action="store_true", help="run nothing, only print the table of the rows there are")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if not options.table and not options.latency:
        todo = cases(options.only)
        known = options.rows.with_suffix(".again") if options.again else options.rows
        resume(todo, examine, known, workers=1, timeout=options.timeout, say=lambda row: str(row.get("scores", "")))
        if options.again:
            _append(options.rows, known)
    rows = read_rows(options.rows)
    for name in [name for name in TASKS if options.latency and any(part in name for part in options.only.split(";"))]:
        with options.times.open("a", encoding="utf-8") as file:
            file.write(json.dumps(latencies(name, rows, options.latency)) + "\n")
    text = summary(rows, read_rows(options.times))
    print(text)
    if options.write:
        write("quantize_quality", "What eight-bit quantization costs", text)
    return 0


def _append(rows: Path, fresh: Path) -> None:
    with rows.open("a", encoding="utf-8") as file:
        file.write(fresh.read_text(encoding="utf-8"))
    fresh.unlink()


if __name__ == "__main__":
    sys.exit(main())
