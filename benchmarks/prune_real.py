"""Pruning real trained models without labels: MiniLM, EfficientNet-Lite0, and PP-OCRv4 recognition from its ONNX file.

Run: python benchmarks/prune_real.py [--models minilm,ocr,lite0] [--shares 0.1,0.2,0.3] [--write]
Each is cut, repaired by least squares on unlabelled inputs, run by ONNX Runtime, and judged by what it is for: nearest
neighbours among sentence embeddings, characters read, classes of photographs, on inputs that calibration never saw.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.real_cases import Case, classifier, sentence_encoder
from benchmarks.results import write
from tests.real import ocr
from tests.real.text import phrases

BEFORE = "fold-constants,canonicalize,fold-batch-norm,remove-noops,absorb-affine,dead-code"


def reader() -> Case:
    """Judged by the characters that its file reads rightly on 200 rendered lines; fitted on 256 others."""
    import torch

    text = phrases(456)
    held = ocr.pages(text[:200])

    def likeness(fast: Any) -> float:
        with tempfile.TemporaryDirectory() as folder:
            return ocr.likeness(text[:200], ocr.read(held, rec=fast.to_onnx(Path(folder) / "made.onnx"))[0])

    batches = [{"x": torch.from_numpy(crop)} for crop in ocr.crops(text[200:])]
    return Case(str(ocr.file("rec")), None, None, batches, likeness)


CASES = {"minilm": sentence_encoder, "ocr": reader, "lite0": classifier}


def examine(name: str, share: float, criterion: str) -> dict[str, Any]:
    """Prune by a share of the FLOPs, write, judge."""
    import tersor

    case = CASES[name]()
    started = time.perf_counter()
    passes = f"{BEFORE},prune{{ratio={share};of=flops;criterion={criterion}}},canonicalize,dead-code"
    fast = tersor.optimize(
        case.model, case.inputs, dynamic=case.dynamic, passes=passes if share else BEFORE, budget=1.0,
        calibration=case.calibration, backend="onnxruntime", seconds=0.0, progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    report = fast.report
    score = case.evaluator(fast)
    lossy = [step for step in report.steps if not step.exact]
    return {
        "model": name, "share": share, "criterion": criterion if share else "", "score": score, "seconds": seconds,
        "flops": report.after.flops / report.before.flops,
        "parameters": report.after.parameters / report.before.parameters,
        "agreement": report.quality.after if report.quality else 1.0,
        "dropped": "; ".join(step.reason for step in lossy if step.status == "dropped"),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--shares", default="0,0.1,0.2,0.3,0.5")
    parser.add_argument("--criteria", default="surgeon")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name in options.models.split(","):
        for share in map(float, options.shares.split(",")):
            for criterion in options.criteria.split(","):
                rows.append(examine(name, share, criterion))
                print(rows[-1], flush=True)
    text = summary(rows)
    print(text)
    if options.write:
        write("prune_real", "Real models pruned without labels", text)
    return 0


def summary(rows: list[dict[str, Any]]) -> str:
    lines = [
        "FLOPs removed from trained models, repaired by least squares on unlabelled inputs, judged in ONNX Runtime on "
        "others: nearest neighbours kept (MiniLM), characters read (PP-OCRv4), classes kept (EfficientNet-Lite0).",
        "",
        "| model | share asked | criterion | judged | agreement of outputs | FLOPs kept | parameters kept | seconds "
        "| dropped |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['model']} | {r['share']:.0%} | {r['criterion']} | {r['score']:.3f} | {r['agreement']:.3f} "
        f"| {r['flops']:.0%} | {r['parameters']:.0%} | {r['seconds']:.0f} | {r['dropped']} |"
        for r in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
