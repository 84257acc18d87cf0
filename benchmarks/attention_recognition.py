"""How many attentions are recognised: by Tersor, Inductor, ONNX Runtime's transformers optimizer and onnxscript.

Run: python benchmarks/attention_recognition.py [--family spelling|hf] [--only TEXT] [--rows FILE] [--write]
Rows are appended to ``--rows`` as they come, and cases that stand there already are not run again.
``--write`` updates docs/results/attention_recognition.md.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.pool import arguments, resume
from benchmarks.results import read_rows, write

FAMILIES = ("spelling", "hf")
TIMEOUT = 900
DTYPES = ("float32", "float16", "bfloat16")
MODELS = {
    "bert": "bert", "roberta": "bert", "distilbert": "bert", "gpt2": "gpt2", "llama": "gpt2", "qwen3": "qwen3",
    "t5-encoder": "t5", "whisper-encoder": "bart", "clip-text": "clip", "clip-vision": "vit",
}  # fmt: skip
"""hf: names, and ONNX Runtime's name for their kind."""

WAYS = ("tersor", "tersor_dynamo", "tersor_script", "inductor", "ort_dynamo", "ort_script", "script_dynamo")
TITLES = (
    "Tersor, torch.export", "Tersor, ONNX (dynamo)", "Tersor, ONNX (TorchScript)", "Inductor",
    "ONNX Runtime optimizer, dynamo", "ONNX Runtime optimizer, TorchScript", "onnxscript, dynamo",
)  # fmt: skip
FUSED = {"Attention", "MultiHeadAttention", "GroupQueryAttention", "DecoderMaskedMultiHeadAttention"}
PIPELINE = "fold-constants,common-subexpressions,canonicalize,recognise-attention,dead-code"


def cases(family: str) -> list[str]:
    """``family:name:dtype``."""
    from tests.passes.attention_spellings import SPELLINGS

    known = [name for name, item in SPELLINGS.items() if not item.refusal] if family == "spelling" else list(MODELS)
    return [f"{family}:{name}:{dtype}" for name in known for dtype in DTYPES]


def examine(case: str) -> dict[str, Any]:
    """One case: how many attentions there are, and how many each way finds."""
    family, name, dtype = case.split(":")
    folder = Path(tempfile.mkdtemp())
    row: dict[str, Any] = {"status": "", "why": "", "notes": {}}
    try:
        model, args, kwargs, dynamic = _load(family, name, dtype)
        row["wanted"] = _softmaxes(model, args, kwargs)
        files = {kind: partial(_export, model, args, kwargs, kind, folder / f"{kind}.onnx") for kind in (True, False)}
        ways: dict[str, Callable[[], int | str]] = {
            "tersor": partial(_tersor, model, args, kwargs, dynamic),
            "inductor": partial(_inductor, model, args, kwargs),
            "tersor_dynamo": lambda: _tersor_onnx(files[True]()),
            "tersor_script": lambda: _tersor_onnx(files[False]()),
            "ort_dynamo": lambda: _ort(files[True](), MODELS.get(name, "bert"), *_widths(model)),
            "ort_script": lambda: _ort(files[False](), MODELS.get(name, "bert"), *_widths(model)),
            "script_dynamo": lambda: _onnxscript(files[True]()),
        }
        for way, count in ways.items():
            row[way] = _tried(count, way, row["notes"])
        row["status"] = "recognised" if row["tersor"] == row["wanted"] else "declined"
        row["why"] = row["notes"].get("tersor", "")
    except Exception as error:
        row["status"], row["why"] = "crash", f"{type(error).__name__}: {error}".splitlines()[0]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return row


def _tried(count: Callable[[], int | str], way: str, notes: dict[str, str]) -> int | None:
    """The number found; None where the way fails, with what it said."""
    try:
        found = count()
    except Exception as error:
        notes[way] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return None
    if isinstance(found, str):
        notes[way] = found
        return 0
    return found


def _load(family: str, name: str, dtype: str) -> tuple[Any, tuple[Any, ...], dict[str, Any], Any]:
    import torch

    from tests.passes.attention_spellings import SPELLINGS, Spelled, inputs_of

    kind = getattr(torch, dtype)
    if family == "spelling":
        return Spelled(SPELLINGS[name]).eval(), inputs_of(SPELLINGS[name], kind), {}, None
    from tersor.models_zoo import hf

    made = hf.fields(name, 0, attention="eager")
    inputs = {key: value.to(kind) if value.is_floating_point() else value for key, value in made["inputs"].items()}
    return made["model"].to(kind), (), inputs, None


def _softmaxes(model: Any, args: Any, kwargs: Any) -> int:
    """The attentions in the model: its softmaxes, one where they are spelled out."""
    import torch

    graph = torch.export.export(model, args, kwargs, strict=False).graph
    return max(1, sum("softmax" in str(node.target) for node in graph.nodes))


def _recognised(program: Any) -> int | str:
    """How many, where the outputs are equal; the first reason where there are none."""
    from tersor.context import Context
    from tersor.pipeline import run
    from tersor.rewrite_values import key
    from tersor.spec import parse

    outcome = run(program, parse(PIPELINE))
    step = next(item for item in outcome.steps if item.spec == "recognise-attention")
    count = sum(key(node) == "scaled_dot_product_attention" for node in outcome.program.nodes)
    context = Context()
    if not count:
        parse("recognise-attention")[0](outcome.program.clone(), context)
    return count or step.reason or "; ".join(site.detail for site in context.skipped) or "no softmax"


def _tersor(model: Any, args: Any, kwargs: Any, dynamic: Any) -> int | str:
    from tersor.capture.torch import capture_module
    from tersor.refresh import refresh

    return _recognised(refresh(capture_module(model, kwargs or args, dynamic)))


def _tersor_onnx(path: Path) -> int | str:
    from tersor.capture.sources import load
    from tersor.refresh import refresh

    return _recognised(refresh(load(path)))


def _export(model: Any, args: Any, kwargs: Any, dynamo: bool, path: Path) -> Path:
    import torch

    if not path.exists():
        torch.onnx.export(model, args, path, kwargs=kwargs, dynamo=dynamo, verbose=False, external_data=False)
    return path


def _inductor(model: Any, args: Any, kwargs: Any) -> int:
    """Its counter of attention patterns; no code is generated."""
    import torch
    from torch._dynamo.utils import counters
    from torch._inductor.compile_fx import compile_fx

    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, backend=partial(compile_fx, inner_compile=lambda graph, inputs, **rest: graph))
    try:
        with torch.no_grad():
            compiled(*args, **kwargs)
    finally:
        found = int(counters["inductor"]["fuse_attention"])
    return found


def _widths(model: Any) -> tuple[int, int]:
    """Heads and channels, which ONNX Runtime's optimizer asks its user for."""
    from tests.passes.attention_spellings import E, H

    config = getattr(model, "config", None)
    return (H, H * E) if config is None else (config.num_attention_heads, config.hidden_size)


def _ort(path: Path, kind: str, heads: int, channels: int) -> int:
    import logging

    import onnx
    from onnxruntime.transformers.optimizer import optimize_model

    logging.disable(logging.WARNING)
    made = optimize_model(str(path), kind, num_heads=heads, hidden_size=channels, opt_level=0).model
    return sum(node.op_type in FUSED for node in made.graph.node) - _fused(onnx.load(path))


def _fused(model: Any) -> int:
    return sum(node.op_type in FUSED for node in model.graph.node)


def _onnxscript(path: Path) -> int:
    import onnx_ir as ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    made, _ = optimize_for_ort(ir.load(path))
    return sum(node.op_type in FUSED for node in made.graph)


def main() -> int:
    options = arguments(__doc__, FAMILIES, "attention_recognition", workers=1).parse_args()
    todo = [case for family in options.family or FAMILIES for case in cases(family) if options.only in case]
    if not options.table:
        resume(
            todo, examine, options.rows, workers=options.workers, timeout=TIMEOUT, before=options.before,
            say=lambda row: " ".join(f"{way}={row.get(way)}" for way in ("wanted", *WAYS)),
        )  # fmt: skip
    rows = [row for name, row in read_rows(options.rows).items() if name in todo]
    text = summary(rows)
    print(text)
    if options.write:
        write("attention_recognition", "Attention recognised", text)
    return 0


def summary(rows: list[dict[str, Any]]) -> str:
    """Totals by family and dtype, then each case; a dash where a way could not run."""
    lines = [
        "Attentions found, of those there are. Tersor's count only where the outputs stayed equal. Inductor's are its",
        "own counter, the last three count fused attention nodes in the file that comes out, valid or not.",
        "",
        f"| family | dtype | attentions | {' | '.join(TITLES)} |",
        f"|{'---|' * (3 + len(WAYS))}",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        family, _, dtype = row["model"].split(":")
        groups.setdefault((family, dtype), []).append(row)
    for (family, dtype), own in groups.items():
        totals: Counter[str] = Counter()
        for row in own:
            totals.update({way: min(row.get(way) or 0, row.get("wanted", 0)) for way in WAYS})
        wanted = sum(row.get("wanted", 0) for row in own)
        lines.append(f"| {family} | {dtype} | {wanted} | {' | '.join(str(totals[way]) for way in WAYS)} |")
    lines += ["", f"| case | attentions | {' | '.join(TITLES)} | why |", f"|{'---|' * (3 + len(WAYS))}"]
    for row in rows:
        found = ["-" if row.get(way) is None else str(row[way]) for way in WAYS]
        why = str(row["why"])[:160].replace("|", "/")
        lines.append(f"| {row['model']} | {row.get('wanted', '')} | {' | '.join(found)} | {why} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
