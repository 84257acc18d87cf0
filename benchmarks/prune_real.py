"""Pruning real trained models without labels: MiniLM, EfficientNet-Lite0, and PP-OCRv4 recognition from its ONNX file.

Run: python benchmarks/prune_real.py [--models minilm,ocr,lite0] [--shares 0.1,0.2,0.3] [--write]
Each is cut, repaired by least squares on unlabelled inputs, written as ONNX, and judged by what it is for: nearest
neighbours among sentence embeddings, characters read, classes of photographs, on inputs that calibration never saw.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import write
from tests.real import lite0, minilm, ocr
from tests.real.text import phrases, sentences

BEFORE = "fold-constants,canonicalize,fold-batch-norm,remove-noops,absorb-affine,dead-code"


@dataclass(frozen=True)
class Case:
    """A model and how it is judged: ``judge`` takes a file and gives a share between 0 and 1."""

    model: Any
    inputs: Any
    dynamic: Any
    calibration: list[Any]
    judge: Callable[[Path], float]


def sentence_encoder() -> Case:
    """Judged by the share of 200 sentences whose nearest neighbour among them stays the same."""
    import torch

    model, encode = minilm.load()
    text = sentences()
    held, fitted = text[:200], text[200:456]

    def nearest(made: torch.Tensor) -> torch.Tensor:
        return (made @ made.T - 2 * torch.eye(len(made))).argmax(1)

    wanted = nearest(minilm.embeddings(lambda inputs: model(**inputs).last_hidden_state, encode, held))

    def judge(path: Path) -> float:
        got = nearest(minilm.embeddings(minilm.of_file(path), encode, held))
        return float((wanted == got).float().mean())

    batches = [encode(part) for part in minilm.batches(fitted)][:-1]
    return Case(model, batches[0], minilm.dynamic(), batches[1:], judge)


def reader() -> Case:
    """Judged by the characters read rightly on 200 rendered lines; fitted on 256 others."""
    import torch

    text = phrases(456)
    held = ocr.pages(text[:200])

    def judge(path: Path) -> float:
        return ocr.likeness(text[:200], ocr.read(held, rec=path)[0])

    batches = [{"x": torch.from_numpy(crop)} for crop in ocr.crops(text[200:])]
    return Case(str(ocr.file("rec")), None, None, batches, judge)


def classifier() -> Case:
    """Judged by the classes of 20 photographs; fitted on crops and mirror images of other photographs' quarters."""
    import torch

    model = lite0.load()
    images, _ = lite0.photographs()
    with torch.no_grad():
        wanted = model(images).argmax(1)
    crops = [images[:, :, top : top + 160, left : left + 160] for top in (0, 64) for left in (0, 64)]
    resized = [torch.nn.functional.interpolate(crop, 224, mode="bilinear").flip(-1) for crop in crops]
    batches = [(part,) for crop in resized for part in crop.split(10)]

    def judge(path: Path) -> float:
        from tests.real.compare import session

        made = session(path)
        got = torch.from_numpy(made.run(None, {made.get_inputs()[0].name: images.numpy()})[0]).argmax(1)
        return float((got == wanted).float().mean())

    return Case(model, (images[:2],), ({0: torch.export.Dim("batch")},), batches, judge)


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
    with tempfile.TemporaryDirectory() as folder:
        score = case.judge(fast.to_onnx(Path(folder) / "made.onnx"))
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
        "FLOPs removed from trained models, repaired by least squares on unlabelled inputs, judged as ONNX files on "
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
