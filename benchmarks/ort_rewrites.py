"""What ONNX Runtime's own rewrites are worth on this CPU: sessions of one file with some of them left out.

Run: python benchmarks/ort_rewrites.py [--models hf:bert,...] [--seconds 1] [--others] [--write]
Ratios are to all rewrites, the two sessions alone, in neighbouring turns; below 1, leaving the rewrite out is faster.
The file is the one that Tersor's ONNX Runtime backend runs, after the exact passes. ``--others`` leaves out further
rewrites one by one, beside those that the backend leaves out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.peers import original_file
from benchmarks.results import write

MODELS = (
    "hf:bert,hf:llama,hf:whisper-encoder,hf:clip-vision,hf:mamba,real:minilm,timm:vit_tiny_patch16_224,"
    "timm:swin_tiny_patch4_window7_224,timm:convnext_atto,timm:mobilenetv3_large_100,timm:efficientnet_b0,"
    "timm:resnet18,real:ocr-det,real:ocr-rec,real:lite0"
)
OTHERS = (
    "BiasGeluFusion", "QuickGeluFusion", "MatMulScaleFusion", "MatmulTransposeFusion", "TransposeOptimizer",
    "ConvActivationFusion", "ConvAddActivationFusion", "NchwcTransformer", "SimplifiedLayerNormFusion",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    left_out = sets(options.others)
    lines = [f"| model | threads | {' | '.join(left_out)} |", "|---" * (len(left_out) + 2) + "|"]
    for name in options.models.split(","):
        for threads, ratios in rows(name, left_out, options.seconds):
            lines.append(f"| {name} | {threads} | {' | '.join(ratios)} |")
            print(lines[-1], flush=True)
    text = (
        "Time of a session with rewrites left out relative to one with all of them (median of the ratios of "
        "neighbouring turns, and its 95 % confidence interval).\n\n" + "\n".join(lines)
    )
    print(text)
    if options.write:
        write("ort_rewrites", "What ONNX Runtime's own rewrites are worth", text)
    return 0


def sets(others: bool) -> dict[str, tuple[str, ...]]:
    """What is left out, by column."""
    from tersor.backends.onnxruntime import SLOWER

    found: dict[str, tuple[str, ...]] = {"nothing": (), **{name: (name,) for name in SLOWER}, "both": SLOWER}
    return found | {f"both, {name}": (*SLOWER, name) for name in OTHERS if others}


def rows(name: str, left_out: Mapping[str, tuple[str, ...]], seconds: float) -> list[tuple[int, list[str]]]:
    """For one thread and for all: the ratios, by column."""
    import torch
    from torch.utils import _pytree as pytree

    import tersor
    from tersor.backends.onnxruntime import BACKEND
    from tersor.measure import paired
    from tersor.target import detect

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "original.onnx"
        _, inputs = original_file(name, path)
        fast = tersor.optimize(str(path), backend="onnxruntime", progress=False, seconds=0)
    flat = [value for value in pytree.tree_leaves(inputs) if isinstance(value, torch.Tensor)]
    assert fast.program is not None
    model, found = BACKEND.for_cpu(fast.program), []
    for threads in dict.fromkeys((1, detect().threads)):
        base, cells = session(model, threads, (), flat), []
        for names in left_out.values():
            ratio = paired(base, session(model, threads, names, flat), seconds=seconds)
            cells.append(f"{ratio.median:.3f} ({ratio.low:.2f}-{ratio.high:.2f})")
        found.append((threads, cells))
    return found


def session(model: Any, threads: int, without: tuple[str, ...], inputs: list[Any]) -> Callable[[], Any]:
    from tersor.export.runtime import Session

    made = Session(model, threads, without=without)
    return lambda: made.run(inputs)


if __name__ == "__main__":
    sys.exit(main())
