"""Which architectures come through capture -> exact passes -> verification -> ONNX, and how many nodes they end with.

Run: python benchmarks/coverage.py [--family torchvision|timm|hf|zoo] [--only TEXT] [--rows FILE] [--write]
Rows are appended to ``--rows`` as they come, and models that stand there already are not run again, but for those whose
row is of a day before ``--before``.
``--write`` updates docs/results/coverage.md.
How many nodes torch.onnx.export writes is taken from that table where it was made with the same versions of torch and
onnxscript, on which alone it depends; that export takes a third of the time.
"""

from __future__ import annotations

import functools
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.pool import arguments, resume
from benchmarks.results import FOLDER, read_rows, table_rows, write

FAMILIES = ("zoo", "hf", "timm", "torchvision")
TIMEOUT = 1800
LARGE = 512
"""Pixels a side."""


def models(family: str) -> list[str]:
    """Names of one family's models."""
    if family in ("zoo", "hf"):
        from tersor.models_zoo.catalog import names

        return [name for name in names(family) if name.startswith(f"{family}:")]
    return _timm() if family == "timm" else _torchvision()


def _timm() -> list[str]:
    """One model per model file: the smallest name of those that take the smallest input."""
    from tersor.models_zoo.torchvision_ops import ensure

    ensure()
    import timm

    chosen = []
    for module in sorted(timm.list_modules()):
        found = [name for name in timm.list_models(module=module) if not name.startswith("test_")]
        sized = [(_parameters_hint(name), name) for name in found]
        if sized:
            chosen.append(f"timm:{min(sized)[1]}")
    return chosen


def _parameters_hint(name: str) -> tuple[int, int]:
    """Small variants first, by the words that their names carry."""
    order = [
        "zepto",
        "pico",
        "femto",
        "atto",
        "nano",
        "xxs",
        "xx_small",
        "tiny",
        "_xs",
        "mini",
        "small",
        "_s",
        "18",
        "b0",
    ]
    ranks = [position for position, word in enumerate(order) if word in name]
    return min(ranks, default=len(order)), len(name)


def _torchvision() -> list[str]:
    from tersor.models_zoo.torchvision_ops import ensure

    ensure()
    import torchvision

    listed = torchvision.models.list_models
    found = listed(module=torchvision.models) + listed(module=torchvision.models.segmentation)
    return [f"torchvision:{name}" for name in found if not name.startswith("quantized")]


def examine(name: str) -> dict[str, Any]:
    """One model: what became of it, node counts before and after, and the stages' times."""
    import torch

    import tersor
    from tersor.errors import TersorError
    from tersor.models_zoo.catalog import load

    folder = Path(tempfile.mkdtemp())
    row: dict[str, Any] = {"status": "", "why": ""}
    try:
        entry = load(name, **_smaller(name))
        row["parameters"] = sum(value.numel() for value in entry.model.parameters())
        fast = tersor.optimize(
            entry.model, entry.inputs, dynamic=entry.dynamic, backend="onnxruntime", progress=False, seconds=0.0
        )
        row["before"] = sum(fast.report.before.operators.values())
        row["after"] = sum(fast.report.after.operators.values())
        row["stages"] = {key: round(value, 1) for key, value in fast.report.stages.items()}
        row["dropped"] = [f"{s.spec}: {s.reason}" for s in fast.report.steps if s.status == "dropped"]
        row["nodes"] = _nodes(fast.to_onnx(folder / "ours.onnx"))
        row["reference_nodes"] = _reference(name, entry)
        row["eager_error"] = _against_eager(entry, fast, torch)
        row["status"] = "dropped a pass" if row["dropped"] else "verified"
    except TersorError as error:
        row["status"], row["why"] = "failed", f"{type(error).__name__}: {error}"
    except Exception as error:
        row["status"], row["why"] = "crash", f"{type(error).__name__}: {error}".splitlines()[0]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return row


def _smaller(name: str) -> dict[str, Any]:
    """A smaller image for timm's models of large ones: attention over those takes minutes a run."""
    if not name.startswith("timm:"):
        return {}
    from tersor.models_zoo.torchvision_ops import ensure

    ensure()
    import timm

    config = timm.models.get_pretrained_cfg(name.removeprefix("timm:"))
    if config is None or config.input_size[1] <= LARGE:
        return {}
    return {"img_size": (config.min_input_size or (3, 224, 224))[1]}


def _nodes(path: Path) -> int:
    import onnx

    return len(onnx.load(path, load_external_data=False).graph.node)


@functools.cache
def _counted() -> dict[str, int | None]:
    """Nodes of torch.onnx.export's files by model, as the table says it, where its versions are those here."""
    import onnxscript
    import torch

    text = (FOLDER / "coverage.md").read_text(encoding="utf-8")
    versions = (f"torch {torch.__version__},", f"onnxscript {onnxscript.__version__},")
    if not all(version in text for version in versions):
        return {}
    found = {row[1]: row[4] for row in table_rows("coverage") if len(row) == 10 and ":" in row[1]}
    return {name: int(count) if count.isdecimal() else None for name, count in found.items()}


def _reference(name: str, entry: Any) -> int | None:
    """Nodes of what torch.onnx.export writes for the same model and dynamic dimensions."""
    import torch

    if name in _counted():
        return _counted()[name]
    args, kwargs = (entry.inputs, {}) if isinstance(entry.inputs, tuple) else ((), dict(entry.inputs))
    try:
        made = torch.onnx.export(
            entry.model, args, kwargs=kwargs, dynamic_shapes=entry.dynamic, dynamo=True, verbose=False
        )
        return None if made is None else len(made.model.graph)
    except Exception:
        return None


def _against_eager(entry: Any, fast: Any, torch: Any) -> float:
    """Largest difference to the eager model, relative to the output's scale."""
    from torch.utils import _pytree as pytree

    args, kwargs = (entry.inputs, {}) if isinstance(entry.inputs, tuple) else ((), dict(entry.inputs))
    with torch.no_grad():
        wanted = pytree.tree_leaves(entry.model(*args, **kwargs))
    got = pytree.tree_leaves(fast(*args, **kwargs))
    errors = [
        float((a - b).abs().max()) / max(float(a.abs().max()), 1e-6)
        for a, b in zip(wanted, got, strict=True)
        if isinstance(a, torch.Tensor) and a.is_floating_point() and a.numel()
    ]
    return max(errors, default=0.0)


def main() -> int:
    options = arguments(__doc__, FAMILIES, "coverage").parse_args()
    todo = [name for family in options.family or FAMILIES for name in models(family) if options.only in name]
    if not options.table:
        resume(
            todo, examine, options.rows, workers=options.workers, timeout=TIMEOUT, before=options.before,
            say=lambda row: f"{row.get('nodes', '')} of {row.get('reference_nodes', '')} nodes",
        )  # fmt: skip
    rows = [row for name, row in read_rows(options.rows).items() if name in todo]
    text = summary(rows)
    print(text)
    if options.write:
        write("coverage", "Architectures captured, optimized and verified", text)
    return 0


def summary(rows: list[dict[str, Any]]) -> str:
    lines = [
        "Random weights except the zoo's trained models; ONNX files with a dynamic batch where the model allows it. "
        "The column `run` says on which day.",
        "",
        "| family | models | verified, every pass kept | verified, a pass dropped | failed "
        "| ATen operators after / before, median "
        "| ONNX nodes at most torch.onnx.export's |",
        "|---|---|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        own = [row for row in rows if row["model"].startswith(f"{family}:")]
        if own:
            lines.append(_family(family, own))
    lines += [
        "",
        "| model | status | ONNX nodes | torch.onnx.export's | largest difference to eager | seconds | run | why |",
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda item: item["model"]):
        error = f"{row['eager_error']:.1e}" if "eager_error" in row else ""
        why = (row["why"] or "; ".join(row.get("dropped", [])))[:160].replace("|", "/")
        lines.append(
            f"| {row['model']} | {row['status']} | {row.get('nodes', '')} | {row.get('reference_nodes', '')} | {error} "
            f"| {row['seconds']:.0f} | {row['date']} | {why} |"
        )
    return "\n".join(lines)


def _family(family: str, own: list[dict[str, Any]]) -> str:
    good = [row for row in own if row["status"] in ("verified", "dropped a pass")]
    ratios = [row["after"] / row["before"] for row in good if "after" in row]
    ratio = f"{statistics.median(ratios):.2f}" if ratios else "-"
    compared = [row for row in good if row.get("reference_nodes")]
    fewer = sum(row["nodes"] <= row["reference_nodes"] for row in compared)
    kept = sum(row["status"] == "verified" for row in good)
    return (
        f"| {family} | {len(own)} | {kept} | {len(good) - kept} | {len(own) - len(good)} | {ratio} "
        f"| {fewer} of {len(compared)} |"
    )


if __name__ == "__main__":
    sys.exit(main())
