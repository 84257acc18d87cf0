"""Structured pruning of half of every free group, architecture by architecture, each cut proven; beside Torch-Pruning.

Run: python benchmarks/prune_coverage.py [--family torchvision|timm|hf|zoo|yolo] [--only TEXT] [--rows FILE] [--write]
For each model: capture, axis analysis, removal of half of the indices (chosen at random) of every free group, proof
against the zeroed original, ONNX export and a run in ONNX Runtime. No per-model code, no layers to ignore.
Shapes are fixed, except for the zoo's models, whose dynamic dimensions stay dynamic.
Times are processor seconds of one thread. Rows are appended to ``--rows`` as they come, and models that stand there
already are not run again.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


from benchmarks.coverage import models as listed
from benchmarks.pool import arguments, resume
from benchmarks.results import read_rows, write

FAMILIES = ("zoo", "torchvision", "timm", "hf", "yolo", "large")
TIMEOUT, PEER_TIMEOUT = 1500, 300
PEER = "torch-pruning|"


def names(family: str) -> list[str]:
    """Names of one family's models."""
    if family == "yolo":
        from benchmarks.yolo_blocks import BLOCKS

        return [f"yolo:{name}" for name in BLOCKS]
    if family == "large":
        return ["large:llama-32-layers"]
    if family == "torchvision":
        from tersor.models_zoo.catalog import names as known

        return [name for name in known("torchvision") if "quantized" not in name]
    return listed(family)


def load(name: str) -> tuple[Any, Any, Any]:
    """Module, example inputs and dynamic dimensions."""
    if name.startswith("yolo:"):
        from benchmarks.yolo_blocks import BLOCKS

        module, inputs = BLOCKS[name.removeprefix("yolo:")]()
        return module, inputs, None
    if name.startswith("large:"):
        return decoder(32)
    from tersor.models_zoo.catalog import load as known

    entry = known(name)
    return entry.model, entry.inputs, entry.dynamic if name.startswith("zoo:") else None


def decoder(layers: int) -> tuple[Any, Any, Any]:
    """A Llama with grouped queries, narrow and deep."""
    import torch

    from tersor.models_zoo.torchvision_ops import ensure

    ensure()
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=2,
        vocab_size=256, use_cache=False,
    )  # fmt: skip
    return LlamaModel(config).eval(), {"input_ids": torch.randint(0, 256, (2, 16))}, None


def examine(name: str) -> dict[str, Any]:
    """One model by one tool."""
    try:
        return peer(name.removeprefix(PEER)) if name.startswith(PEER) else ours(name)
    except Exception as error:
        return {"status": "failed", "why": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def ours(name: str) -> dict[str, Any]:
    """Capture, cut, prove, export."""
    from tersor.capture import load as capture
    from tersor.errors import CaptureError

    module, inputs, dynamic = load(name)
    started = time.process_time()
    try:
        programs = {"": capture(module, inputs, dynamic)}
    except CaptureError:
        from tersor.capture.partial import capture_parts

        programs = {part.path: part.program for part in capture_parts(module, inputs)[0]}
        if not programs:
            raise
    made = {path: one(program) for path, program in programs.items()}
    rows = [row for row in made.values() if row is not None]
    if not rows:
        raise ValueError("nothing is free")
    whole = sum(value.numel() for value in module.parameters())
    removed = sum(row["parameters"] - row["parameters_kept"] for row in rows)
    return {
        "status": "proven", "why": "", "parts": [path for path, row in made.items() if path and row is not None],
        "kept": 1 - removed / max(whole, 1), "parameters": whole,
        "flops": sum(row["flops_kept"] for row in rows) / max(sum(row["flops"] for row in rows), 1),
        **{key: max(row[key] for row in rows) for key in ("difference", "analysis", "cut")},
        **{key: sum(row[key] for row in rows) for key in ("free", "groups", "nodes")},
        "unknown": sorted({reason for row in rows for reason in row["unknown"]})[:8],
        "onnx": all(row["onnx"] == "equal" for row in rows), "onnx_why": next((r["onnx"] for r in rows), ""),
        "total": time.process_time() - started,
    }  # fmt: skip


def one(program: Any) -> dict[str, Any] | None:
    """Cut one program in half, prove it and take it through ONNX; None where no group is free."""
    import torch

    from tersor.axes import analyze, cut, groups
    from tersor.facts import facts

    before = facts(program)
    started = time.process_time()
    axes = analyze(program)
    found = groups(program, axes)
    analysis = time.process_time() - started
    torch.manual_seed(0)
    free = [group for group in found if group.free]
    kept = {
        group.axis: torch.randperm(group.size)[: max(group.size // 2, group.axis.least)].sort().values for group in free
    }
    if not kept:
        return None
    started = time.process_time()
    proofs = cut(program, axes, kept)
    after = facts(program)
    return {
        "parameters": before.parameters, "parameters_kept": after.parameters, "nodes": sum(before.operators.values()),
        "flops": before.flops or 0, "flops_kept": after.flops or 0, "analysis": analysis,
        "cut": time.process_time() - started, "free": len(free), "groups": len(found),
        "difference": max((row["relative"] for p in proofs for row in p.outputs.values()), default=0.0),
        "unknown": [reason.partition(" at ")[0] for reason in axes.unknown.values()], "onnx": through_onnx(program),
    }  # fmt: skip


def through_onnx(program: Any) -> str:
    """ "equal", or why not, for the pruned program's file in ONNX Runtime."""
    from tersor.check import RUNTIME_FLOOR, failure
    from tersor.export import save_onnx
    from tersor.export.runtime import Session
    from tersor.pipeline import Reference

    reference = Reference.of(program)
    with tempfile.TemporaryDirectory() as folder:
        try:
            session = Session(save_onnx(program, Path(folder) / "cut.onnx"), 1)
            problem = failure(reference.judge("the file", lambda *inputs: session.run(inputs), RUNTIME_FLOOR))
        except Exception as error:
            problem = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return problem or "equal"


def peer(name: str) -> dict[str, Any]:
    """Torch-Pruning 1.6 at ratio 0.5, magnitude, no hints but the layers whose width is the output's."""
    import torch
    import torch_pruning as tp
    from torch.utils import _pytree as pytree

    module, inputs, _ = load(name)
    whole = sum(value.numel() for value in module.parameters())
    call = (lambda: module(**inputs)) if isinstance(inputs, dict) else (lambda: module(*inputs))
    with torch.no_grad():
        shapes = [tuple(v.shape) for v in pytree.tree_leaves(call()) if isinstance(v, torch.Tensor)]
    widths = {shape[1] if len(shape) == 4 else shape[-1] for shape in shapes if shape}
    last = [m for m in module.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)
            and getattr(m, "out_features", getattr(m, "out_channels", None)) in widths][-2:]  # fmt: skip
    started = time.process_time()
    pruner = tp.pruner.MagnitudePruner(
        module, inputs, importance=tp.importance.MagnitudeImportance(), pruning_ratio=0.5, ignored_layers=last
    )
    pruner.step()
    with torch.no_grad():
        after = [tuple(v.shape) for v in pytree.tree_leaves(call()) if isinstance(v, torch.Tensor)]
    kept = sum(value.numel() for value in module.parameters()) / max(whole, 1)
    fine = after == shapes and kept < 0.98
    why = "" if fine else "nothing was pruned" if after == shapes else f"outputs are {after[:1]}, were {shapes[:1]}"
    return {"status": "runs" if fine else "failed", "why": why, "kept": kept, "cut": time.process_time() - started}


def main() -> int:
    parser = arguments(__doc__, FAMILIES, "prune_coverage", workers=1)
    parser.add_argument("--no-peer", action="store_true", help="leave Torch-Pruning out")
    options = parser.parse_args()
    wanted = [name for family in options.family or FAMILIES for name in names(family) if options.only in name]
    cases = [(wanted, TIMEOUT), ([] if options.no_peer else [PEER + name for name in wanted], PEER_TIMEOUT)]
    for todo, timeout in [] if options.table else cases:
        resume(todo, examine, options.rows, workers=options.workers, timeout=timeout, before=options.before, say=_said)
    text = summary(wanted, read_rows(options.rows))
    print(text)
    if options.write:
        write("prune_coverage", "Half of every free group removed, with proof", text)
    return 0


def _said(row: dict[str, Any]) -> str:
    return str({key: row[key] for key in ("kept", "difference", "onnx", "onnx_why", "unknown") if key in row})


def summary(wanted: list[str], rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "Half of the indices of every free group, chosen at random, removed at once. *Proven*: outputs equal the "
        "original's with the consumers of those indices zeroed (normalisations over what stays). Torch-Pruning 1.6.1 "
        "is asked for ratio 0.5 by magnitude and checked for running with unchanged output shapes only.",
        "",
        "| family | models | proven | ONNX equal | parameters kept, median | FLOPs kept, median "
        "| Torch-Pruning runs | it keeps, median |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        own = [name for name in wanted if name.startswith(f"{family}:") and name in rows]
        if own:
            lines.append(_family(family, own, rows))
    lines += ["", "| model | result | parts | free groups | parameters kept | FLOPs kept | largest difference "
              "| ONNX | analysis, s | cut, s | all, s | Torch-Pruning | it keeps | its s | why |"]  # fmt: skip
    lines += ["|---" * 15 + "|"]
    lines += [_line(name, rows[name], rows.get(PEER + name, {})) for name in sorted(wanted) if name in rows]
    return "\n".join(lines)


def _family(family: str, own: list[str], rows: dict[str, dict[str, Any]]) -> str:
    good = [rows[name] for name in own if rows[name]["status"] == "proven"]
    peers = [rows[PEER + name] for name in own if PEER + name in rows]
    theirs = [row for row in peers if row["status"] == "runs"]

    def median(found: list[dict[str, Any]], key: str) -> str:
        return f"{statistics.median(row[key] for row in found):.0%}" if found else ""

    return (
        f"| {family} | {len(own)} | {len(good)} | {sum(row['onnx'] for row in good)} | {median(good, 'kept')} "
        f"| {median(good, 'flops')} | {len(theirs)} of {len(peers)} | {median(theirs, 'kept')} |"
    )


def _line(name: str, row: dict[str, Any], other: dict[str, Any]) -> str:
    cells = [name, row["status"], ", ".join(row.get("parts", [])), f"{row.get('free', '')}"]
    cells += [f"{row[key]:.0%}" if key in row else "" for key in ("kept", "flops")]
    cells += [f"{row['difference']:.1e}" if "difference" in row else "", "equal" if row.get("onnx") else ""]
    cells += [f"{row[key]:.1f}" if key in row else "" for key in ("analysis", "cut", "total")]
    cells += [other.get("status", ""), f"{other['kept']:.0%}" if "kept" in other else ""]
    cells += [f"{other['cut']:.1f}" if "cut" in other else ""]
    onnx = "" if row.get("onnx", True) else row.get("onnx_why", "")
    cells.append((row["why"] or onnx or ", ".join(row.get("unknown", [])))[:160].replace("|", "/"))
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
