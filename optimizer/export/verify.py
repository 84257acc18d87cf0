"""Running an exported model in ONNX Runtime beside the program it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch

from tersor.bindings import resized
from tersor.export.runtime import Session
from tersor.program import Program


@dataclass(frozen=True)
class Difference:
    """How far one output of the exported model is from the program's.

    Attributes:
        output: its name.
        binding: sizes of the dynamic dimensions in this run, by symbol.
        absolute: largest absolute difference; infinite where shape or dtype differ, or only one side is not finite.
        scale: largest finite magnitude in the program's output.
    """

    output: str
    binding: Mapping[str, int]
    absolute: float
    scale: float


def verify_onnx(
    program: Program, model: str | Path | ir.Model, bindings: Sequence[Mapping[str, int]] | None = None
) -> list[Difference]:
    """Run program and model on the same inputs; the numbers are for the caller to judge.

    Args:
        program: the reference.
        model: path of the exported file, or the model in memory.
        bindings: sizes of the dynamic dimensions, by symbol. None takes the example's, and one other where there
            are dynamic dimensions. The example inputs are used at their own sizes, others are cut or tiled from them.

    Raises:
        BackendError: ONNX Runtime cannot load or run the model.
    """
    session = Session(model)
    differences = []
    for binding in bindings if bindings is not None else _two_bindings(program):
        inputs = resized(program, dict(binding))
        for name, wanted, got in zip(
            program.interface.output_names, program.run(inputs), session.run(inputs), strict=True
        ):
            differences.append(Difference(name, dict(binding), *_compare(wanted, got)))
    return differences


def _two_bindings(program: Program) -> list[dict[str, int]]:
    example = {symbol: dimension.hint for symbol, dimension in program.dimensions.items()}
    other = {}
    for symbol, dimension in program.dimensions.items():
        larger, smaller = dimension.hint + 1, max(dimension.minimum, dimension.hint - 1)
        other[symbol] = larger if dimension.maximum is None or larger <= dimension.maximum else smaller
    return [example] if not example else [example, other]


def _compare(wanted: torch.Tensor, got: torch.Tensor) -> tuple[float, float]:
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return float("inf"), 0.0
    a, b = (value.to(torch.complex128 if value.is_complex() else torch.float64) for value in (wanted.cpu(), got.cpu()))
    same = (a == b) | (a.isnan() & b.isnan())
    distance = torch.where(same, torch.zeros((), dtype=torch.float64), (a - b).abs().nan_to_num(nan=float("inf")))
    finite = a.abs()[a.isfinite()]
    return (float(distance.max()) if distance.numel() else 0.0), (float(finite.max()) if finite.numel() else 0.0)
