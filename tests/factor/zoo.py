"""Trained zoo models after the exact passes, and what a lossy pass makes of them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from tersor.capture import load
from tersor.context import Context
from tersor.cost.flops import program_flops
from tersor.export import save_onnx
from tersor.interface import Flat
from tersor.models_zoo import catalog
from tersor.passes import EXACT
from tersor.program import Program
from tersor.refresh import refresh
from tersor.spec import parse


@dataclass(frozen=True)
class Trained:
    """A trained model with data; ``program`` is not to be edited."""

    program: Program
    calibration: tuple[Flat, ...]
    evaluator: Any

    def accuracy(self, program: Program) -> float:
        return float(self.evaluator(program))

    def after(self, spec: str, context: Context | None = None) -> tuple[Program, Context]:
        """The program after lossy passes, each with the calibration data."""
        made, context = self.program.clone(), context or Context(calibration=self.calibration)
        versions = {name: value._version for name, value in self.program.weights.items()}
        for item in parse(spec):
            item(made, context)
            refresh(made)
        assert versions == {name: value._version for name, value in self.program.weights.items()}
        return made, context

    def flops(self, program: Program) -> float:
        """Share of the operations that is left."""
        return program_flops(program).products / program_flops(self.program).products


@functools.cache
def trained(name: str, batches: int = 4) -> Trained:
    entry = catalog.load(name)
    program = load(name)
    for item in parse(EXACT):
        item(program, Context())
        refresh(program)
    calibration = tuple(program.interface.flatten(item, {}) for item in list(entry.calibration)[:batches])  # type: ignore[arg-type]
    return Trained(program, calibration, entry.evaluator)


def assert_cheaper(model: Trained, made: Program, kept: float, loss: float) -> None:
    """Fewer than ``kept`` of the operations are left, and at most ``loss`` of the accuracy is gone."""
    assert model.flops(made) < kept
    assert model.accuracy(made) >= model.accuracy(model.program) - loss


def assert_exports(program: Program, inputs: Flat, path: Path) -> None:
    """ONNX Runtime computes what the program does, at its example size and at another one."""
    save_onnx(program, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for flat in (program.inputs, inputs):
        names = [item.name for item in session.get_inputs()]
        got = session.run(None, {name: value.numpy() for name, value in zip(names, flat, strict=True)})
        for left, right in zip(got, program.run(flat), strict=True):
            np.testing.assert_allclose(left, right.numpy(), rtol=1e-3, atol=2e-4)


def distance(program: Program, other: Program, inputs: Flat) -> float:
    """Largest difference of outputs by the largest output."""
    pairs = zip(program.run(inputs), other.run(inputs), strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def details(context: Context) -> str:
    """What was done."""
    return "; ".join(site.detail for site in context.taken)


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
