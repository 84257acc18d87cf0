"""Latency, not FLOPs, after half of the FLOPs were pruned: ONNX Runtime and OpenVINO, batch 1, interleaved.

Run: python benchmarks/prune_latency.py [--models timm:resnet50,...] [--share 0.5] [--seconds 6] [--write]
Weights are random: the shapes decide. Both sides get the exact passes, so that the ratio is that of the cut alone.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import write

CNNS = "timm:resnet18,timm:resnet50,timm:mobilenetv3_large_100,timm:efficientnet_b0,timm:convnext_atto,timm:regnetx_008"
TRANSFORMERS = "timm:vit_tiny_patch16_224,timm:deit_small_patch16_224,timm:swin_tiny_patch4_window7_224"
EXACT = "fold-constants,canonicalize,fold-batch-norm,remove-noops,dead-code"
RUNTIMES = ("onnxruntime", "openvino")


def examine(name: str, share: float, of: Any, allocation: str, seconds: float) -> dict[str, Any]:
    """Medians by runtime before and after, and the shares of FLOPs and parameters that stay."""
    from tersor.axes import analyze
    from tersor.axes.traffic import latency
    from tersor.backend import find_backend
    from tersor.capture import load
    from tersor.context import Context
    from tersor.cost.flops import program_flops
    from tersor.measure import interleaved
    from tersor.models_zoo.catalog import load as known
    from tersor.passes.prune import Prune
    from tersor.pipeline import Reference, run
    from tersor.spec import parse
    from tersor.target import detect

    entry = known(name)
    program = load(entry.model, tuple(value[:1].contiguous() for value in entry.inputs))
    whole = run(program, parse(EXACT), Reference.of(program)).program

    def time_of(item: Any) -> float:
        return latency(item, analyze(item), detect()).total()

    cut = whole.clone()
    options: dict[str, Any] = {"allocation": allocation, "criterion": "magnitude"}
    Prune(ratio=share, of=of, **options)(cut, Context(calibration=(whole.inputs,)))
    calls: dict[str, Callable[[], Any]] = {}
    for runtime in RUNTIMES:
        for label, item in (("before", whole), ("after", cut)):
            call = find_backend(runtime).compile(item, detect())
            calls[f"{runtime} {label}"] = lambda call=call: call(*whole.inputs)  # type: ignore[misc]
    timings = {item.name: item for item in interleaved(calls, seconds=seconds)}
    return {
        "model": name,
        "flops": program_flops(cut).products / program_flops(whole).products,
        "parameters": cut.parameter_bytes() / whole.parameter_bytes(),
        "predicted": time_of(whole) / time_of(cut),
        "timings": timings,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=f"{CNNS},{TRANSFORMERS}")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--of", default="flops", choices=("flops", "latency"))
    parser.add_argument("--allocation", default="uniform")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name in options.models.split(","):
        rows.append(examine(name, options.share, options.of, options.allocation, options.seconds))
        print(line(rows[-1]), flush=True)
    text = summary(rows, options)
    print(text)
    if options.write:
        write("prune_latency", "Latency after pruning", text)
    return 0


def summary(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    lines = [
        f"{options.share:.0%} of the {options.of} removed, allocation {options.allocation}, batch 1; median of "
        "interleaved runs in ms with quartiles, and how many times faster: predicted by the budget's own model of "
        "operations and bytes, and measured.",
        "",
        "| model | FLOPs kept | parameters kept | faster, predicted | ONNX Runtime, before | after | faster "
        "| OpenVINO, before | after | faster |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(line, rows),
    ]
    for title, names in (("CNNs", CNNS), ("transformers", TRANSFORMERS)):
        own = [row for row in rows if row["model"] in names.split(",")]
        if own:
            means = [math.exp(statistics.fmean(math.log(gain(row, runtime)) for row in own)) for runtime in RUNTIMES]
            lines.append(f"| {title}, geometric mean | | | | | | {means[0]:.2f} | | | {means[1]:.2f} |")
    return "\n".join(lines)


def gain(row: dict[str, Any], runtime: str) -> float:
    """How many times faster the cut model is."""
    timings = row["timings"]
    return float(timings[f"{runtime} before"].median_ms / timings[f"{runtime} after"].median_ms)


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    cells = [row["model"], f"{row['flops']:.0%}", f"{row['parameters']:.0%}", f"{row['predicted']:.2f}"]
    for runtime in RUNTIMES:
        for label in ("before", "after"):
            item = row["timings"][f"{runtime} {label}"]
            cells.append(f"{item.median_ms:.2f} ({item.low_ms:.2f}-{item.high_ms:.2f})")
        cells.append(f"{gain(row, runtime):.2f}")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
