"""Comparing with ONNX Runtime: no wrong operator function goes unnoticed, and no size that was taken for fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tersor.capture.onnx.cases import Case
from tersor.capture.onnx.graph import Graph
from tersor.capture.onnx.interface import Port
from tersor.errors import CaptureError, TersorError, first_line

RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
"""Operators whose results differ from run to run. (Dropout counts when it is in training mode.)"""

_RELATIVE = {torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.float64: 1e-6}


@dataclass(frozen=True)
class Agreement:
    """What a model file's nodes must return.

    Attributes:
        ports: the model's outputs.
        cases: inputs and what ONNX Runtime returns; the example comes first.
        note: why nothing is compared; empty where something is.
    """

    ports: Sequence[Port]
    cases: Sequence[Case]
    note: str = ""

    @classmethod
    def of(cls, graph: Graph, cases: Sequence[Case]) -> Agreement:
        """Nothing is compared where the model is random, or where ONNX Runtime cannot load it."""
        note = ""
        if any(node.op_type in RANDOM or _trains(node.op_type, len(node.input)) for node in graph.nodes):
            note = "the model is random, so the import was not compared with ONNX Runtime"
        elif cases[0].outputs is None:
            note = "ONNX Runtime cannot load the file, so the import was not compared with it"
        return cls(graph.outputs, cases, note)

    def check(self, run: Callable[..., Sequence[torch.Tensor]]) -> list[str]:
        """Notes on integer outputs that differ, which ties in ArgMax or TopK may cause.

        Of the cases after the first, those that ``run`` does not take are left out: it may have fixed an axis.

        Raises:
            CaptureError: the first case is not taken; or a floating-point output differs by more than 1e-4 + 1e-3 of
                its largest item (float32).
        """
        notes = []
        for number, case in enumerate(self.cases):
            try:
                got = run(*case.inputs.values())
            except Exception as error:
                if number:
                    continue
                if isinstance(error, TersorError):
                    raise
                line = first_line(error)
                raise CaptureError(f"what was captured does not run on the example inputs: {line}") from error
            if not self.note and case.outputs is not None:
                notes += _compared(self.ports, got, case.outputs)
        return [self.note] if self.note else list(dict.fromkeys(notes))


def _compared(ports: Sequence[Port], got: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> list[str]:
    notes = []
    for port, ours, theirs in zip(ports, got, wanted, strict=True):
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
