"""The planner: how long a plan takes, whether a latency is reached, and what a plan is worth against uniform pruning.

Run: python benchmarks/planner.py [--budget zoo:digits-vit,...] [--latency zoo:digits-cnn,...] [--share 50%] [--write]
Rows are appended to ``--rows`` as they come, and models that stand there already are not run again, nor are trials in
``--studies``; --fresh makes all anew.
Times are ratios to the original on its fastest backend, from neighbouring turns; "uniform" removes the same share of
every group by magnitude, with the same repair, and takes the smallest share that reaches the latency.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import FOLDER, append_row, read_rows, write

BUDGET = "zoo:digits-vit,zoo:digits-cnn,zoo:digits-mobile,zoo:mnist-cnn,zoo:text-encoder"
LATENCY = (
    "zoo:digits-cnn,zoo:digits-mobile,zoo:digits-vit,zoo:mnist-cnn,zoo:text-encoder,zoo:convnext,zoo:swin,zoo:unet,"
    "zoo:dit,zoo:decoder,timm:resnet18,timm:resnet26,timm:mobilenetv3_small_100,timm:efficientnet_lite0,timm:regnetx_002,"
    "timm:vit_tiny_patch16_224,timm:deit_tiny_patch16_224,timm:convnext_atto,timm:swin_tiny_patch4_window7_224,"
    "timm:mobilenetv2_050"
)
REACHED = 1.05
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BATCHES = 8


def own_data(name: str) -> tuple[Any, ...]:
    """Calibration of models that bring none: inputs like the example, drawn from a normal distribution."""
    import torch

    from tersor.models_zoo.catalog import load

    entry = load(name)
    if entry.calibration:
        return ()
    generator = torch.Generator().manual_seed(1)

    def like(value: torch.Tensor) -> torch.Tensor:
        if value.is_floating_point():
            return torch.randn(value.shape, generator=generator)
        return value[:, torch.randperm(value.shape[1], generator=generator)] if value.dim() > 1 else value

    inputs = entry.inputs
    if isinstance(inputs, dict):
        return tuple({key: like(value) for key, value in inputs.items()} for _ in range(BATCHES))
    return tuple(tuple(like(value) for value in inputs) for _ in range(BATCHES))


def budget_row(name: str, study: Path) -> dict[str, Any]:
    """A plan within one percent."""
    import tersor

    began = time.perf_counter()
    fast = tersor.optimize(name, budget=0.01, study=study, resume=True, calibration=own_data(name), progress=False)
    seconds = time.perf_counter() - began
    plan, quality = fast.report.plan, fast.report.quality
    chosen = next(trial for trial in plan.trials if trial.status == "chosen")
    tried = [trial for trial in plan.trials if trial.status != "not tried"]
    return {
        "model": name, "seconds": seconds, "plan_seconds": fast.report.stages["plan"], "trials": len(tried),
        "trial_seconds": sum(trial.seconds for trial in tried), "chosen": plan.chosen, "ratio": chosen.measured,
        "low": chosen.low, "high": chosen.high, "quality": [quality.before, quality.after], "front": len(fast.pareto),
    }  # fmt: skip


def latency_row(name: str, share: str, study: Path) -> dict[str, Any]:
    """What is lost at a share of the original's time, and what uniform pruning loses there."""
    import tersor

    wanted = float(share.rstrip("%")) / 100
    began = time.perf_counter()
    fast = tersor.optimize(
        name, latency=share, budget=1.0, study=study, resume=True, calibration=own_data(name), progress=False
    )
    seconds = time.perf_counter() - began
    plan = fast.report.plan
    chosen = next(trial for trial in plan.trials if trial.status == "chosen")
    return {
        "model": name, "seconds": seconds, "wanted": wanted, "chosen": plan.chosen, "ratio": chosen.measured,
        "low": chosen.low, "high": chosen.high, "lost": chosen.lost, "verdict": plan.verdict,
        **uniform(name, wanted, chosen),
    }  # fmt: skip


def uniform(name: str, wanted: float, chosen: Any) -> dict[str, Any]:
    """The smallest uniform share that takes no longer than what was wanted, or than the plan where that is slower."""
    from tersor.calibration_data import calibration_inputs, listed
    from tersor.capture import load
    from tersor.models_zoo.catalog import load as entry_of
    from tersor.passes import EXACT
    from tersor.passes.prune import Prune
    from tersor.pipeline import Lossy, Reference, run
    from tersor.progress import Silent
    from tersor.quality import Data, Quality
    from tersor.repair import repairer
    from tersor.search.build import Workbench
    from tersor.search.order import CLEAN
    from tersor.search.timing import stopwatch
    from tersor.search.trial import Choice
    from tersor.spec import parse, render_one
    from tersor.target import detect

    original, entry, target = load(name), entry_of(name), detect()
    extra = calibration_inputs(original, listed(own_data(name) or entry.calibration))
    reference = Reference.of(original, extra[:4])
    data = Data.split(original.inputs, extra)
    quality = Quality.of(original, entry.evaluator, 1.0, data)
    start = run(original, parse(EXACT), reference)
    lossy = Lossy(quality, data, target, repairer("least-squares", Silent(), 0))
    watch = stopwatch(original, reference, target, "auto", 0.5)
    bench = Workbench(original, start, lossy, parse(CLEAN), target, "auto", watch)
    limit = max(wanted, chosen.measured or wanted)
    found: dict[str, Any] = {"uniform_share": None, "uniform_ratio": None, "uniform_lost": None}
    for ratio in SHARES:
        item = Prune(ratio=ratio, of="flops", allocation="uniform", criterion="magnitude")
        trial = bench.trial((Choice("prune", 0, item, render_one(item)),))
        if trial.ratio is not None:
            found = {"uniform_share": ratio, "uniform_ratio": trial.ratio, "uniform_lost": trial.lost}
            if trial.ratio <= limit * REACHED:
                return found
    return found


def budget_table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "A plan within 1 % of the metric (`tersor optimize MODEL --budget 1%`). Seconds are of all trials, and of "
        "everything else that the command does, whatever else the machine did. The time is that of the plan relative "
        "to the original's, with its 95 % interval.",
        "",
        "| model | trials | their seconds | other seconds | plan | time | metric before | after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        before, after = row["quality"]
        lines.append(
            f"| {name} | {row['trials']} | {row['trial_seconds']:.0f} | {row['seconds'] - row['plan_seconds']:.0f} "
            f"| `{row['chosen'] or 'exact'}` | {row['ratio']:.3f} ({row['low']:.3f}-{row['high']:.3f}) "
            f"| {before:.4f} | {after:.4f} |"
        )
    return "\n".join(lines)


def latency_table(rows: dict[str, dict[str, Any]]) -> str:
    reached = sum(row["ratio"] <= REACHED * row["wanted"] for row in rows.values())
    better = sum(row["uniform_lost"] is not None and row["lost"] < row["uniform_lost"] for row in rows.values())
    missed = sum(
        row["uniform_ratio"] is None or row["uniform_ratio"] > REACHED * max(row["wanted"], row["ratio"])
        for row in rows.values()
    )
    lines = [
        f"A latency as a share of the original's, with all of the quality to spend. Reached within 5 % on {reached} of "
        f"{len(rows)}; the plan loses less than uniform pruning on {better}, and uniform pruning is not as fast at any "
        f"share on {missed}. Quality is the metric of trained models, and agreement of the outputs with the original's "
        "for those at random weights.",
        "",
        "| model | wanted | reached | loss | plan | uniform share | its time | its loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = ["-"] * 3
        if row["uniform_ratio"] is not None:
            cells = [f"{row['uniform_share']:.0%}", f"{row['uniform_ratio']:.3f}", f"{row['uniform_lost']:.2%}"]
        lines.append(
            f"| {name} | {row['wanted']:.2f} | {row['ratio']:.3f} ({row['low']:.3f}-{row['high']:.3f}) "
            f"| {row['lost']:.2%} | `{row['chosen'] or 'exact'}` | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default=BUDGET)
    parser.add_argument("--latency", default=LATENCY)
    parser.add_argument("--share", default="50%")
    parser.add_argument("--rows", type=Path, default=FOLDER / "rows", help="folder of planner_*.jsonl")
    parser.add_argument("--studies", type=Path, default=Path(tempfile.gettempdir()) / "planner-studies")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.fresh:
        shutil.rmtree(options.studies, ignore_errors=True)
    options.studies.mkdir(parents=True, exist_ok=True)
    tables = []
    for kind, names in (("budget", options.budget), ("latency", options.latency)):
        path = options.rows / f"planner_{kind}.jsonl"
        if options.fresh:
            path.unlink(missing_ok=True)
        rows = read_rows(path)
        for name in filter(None, names.split(",")):
            if name in rows:
                continue
            study = options.studies / f"{name.replace(':', '-')}-{kind}.sqlite3"
            try:
                row = budget_row(name, study) if kind == "budget" else latency_row(name, options.share, study)
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {error}".splitlines()[0], flush=True)
                continue
            rows[name] = row
            append_row(path, row)
            print({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}, flush=True)
        if rows:
            tables.append(budget_table(rows) if kind == "budget" else latency_table(rows))
    text = "\n\n".join(tables)
    print(text)
    if options.write:
        print(write("planner", "The planner on this CPU", text).relative_to(FOLDER.parent.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
