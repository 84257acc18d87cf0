"""Comparing the replay with ONNX Runtime on the example inputs, so that no wrong operator function goes unnoticed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tersor.capture.onnx.graph import Graph
from tersor.errors import CaptureError

RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
"""Operators whose results differ from run to run. (Dropout counts when it is in training mode.)"""

_RELATIVE = {torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.float64: 1e-6}


def check_parity(graph: Graph, got: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor] | None) -> list[str]:
    """Notes on integer outputs that differ, which ties in ArgMax or TopK may cause.

    Raises:
        CaptureError: a floating-point output differs by more than 1e-4 + 1e-3 of its largest item (float32).
    """
    if any(node.op_type in RANDOM or _trains(node.op_type, len(node.input)) for node in graph.nodes):
        return ["the model is random, so the import was not compared with ONNX Runtime"]
    if wanted is None:
        return ["ONNX Runtime cannot load the file, so the import was not compared with it"]
    notes = []
    for port, ours, theirs in zip(graph.outputs, got, wanted, strict=True):
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            raise CaptureError(
                f"output '{port.name}' is {ours.dtype}{list(ours.shape)} in PyTorch and "
                f"{theirs.dtype}{list(theirs.shape)} in ONNX Runtime",
                "please report the model",
            )
        if ours.is_floating_point() or ours.is_complex():
            _compare(port.name, ours, theirs)
        elif not torch.equal(ours, theirs):
            share = (ours != theirs).float().mean().item()
            notes.append(f"{share:.1%} of output '{port.name}' differ from ONNX Runtime, perhaps by ties")
    return notes


def _trains(op_type: str, inputs: int) -> bool:
    return op_type == "Dropout" and inputs > 2


def _compare(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    wide = torch.complex128 if ours.is_complex() else torch.float64
    a, b = ours.to(wide), theirs.to(wide)
    finite = torch.isfinite(a) & torch.isfinite(b)
    largest = b[finite].abs().max().item() if finite.any() else 0.0
    limit = 1e-4 + _RELATIVE.get(ours.dtype, 1e-3 if ours.dtype.itemsize > 1 else 2e-1) * largest
    worst = (a - b)[finite].abs().max().item() if finite.any() else 0.0
    same = torch.equal(a[~finite].nan_to_num(nan=7e300), b[~finite].nan_to_num(nan=7e300))
    if worst > limit or not same:
        raise CaptureError(
            f"output '{name}' differs by {worst:.3g} between PyTorch and ONNX Runtime (at most {limit:.3g} is allowed)",
            "the file is kept as it is: please report the model",
        )
