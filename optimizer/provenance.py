"""What is needed to reproduce a run: versions, hashes of model and data, the command."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from tersor.program import Program
from tersor.report.model import Report
from tersor.target import machine

PACKAGES = ("tersor", "torch", "onnx", "onnxruntime", "onnxscript", "onnx-ir", "openvino", "numpy")


def environment(seed: int) -> dict[str, str]:
    """Versions of what takes part, the machine and the date."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {**found, "machine": machine(), "date": now, "seed": str(seed)}


def describe_source(model: Any) -> str:
    """A short name for what the user gave."""
    if isinstance(model, str | Path):
        return str(model)
    return type(model).__name__


def reproduce(model: Any, report: Report, backend: str, seed: int, spending: Mapping[str, Any] | None = None) -> str:
    """The call or command that does the same again; ``spending`` is what lossy passes may spend and learn from."""
    further = {name: value for name, value in (spending or {}).items() if value}
    if isinstance(model, str | Path):
        passes = f' --passes "{report.pipeline}"' if report.pipeline else ""
        for name, value in further.items():
            passes += "".join(f" --{name} {one}" for one in (value if isinstance(value, list) else [value]))
        return f"tersor optimize {model}{passes} --target {report.target} --backend {backend} --seed {seed} -o OUT.onnx"
    calls = {"calibration": "calibration", "metric": "metric"}
    options = "".join(f", {name}={calls.get(name, repr(value))}" for name, value in further.items())
    return (
        f'tersor.optimize(model, inputs, passes="{report.pipeline}", target="{report.target}", '
        f'backend="{backend}", seed={seed}{options})'
    )


def fingerprint(program: Program) -> tuple[str, str]:
    """SHA-256 of the graph with its weights, and of the example inputs; 16 hexadecimal digits each."""
    model, data = hashlib.sha256(), hashlib.sha256()
    model.update(str(program.graph).encode())
    for name in sorted(program.weights):
        value = program.weights[name]
        model.update(name.encode())
        if isinstance(value, torch.Tensor):
            _update(model, value)
    for value in program.inputs:
        _update(data, value)
    return model.hexdigest()[:16], data.hexdigest()[:16]


def digest(inputs: Iterable[Iterable[torch.Tensor]]) -> str:
    """SHA-256 of several flat inputs, 16 hexadecimal digits."""
    found = hashlib.sha256()
    for flat in inputs:
        for value in flat:
            _update(found, value)
    return found.hexdigest()[:16]


def _update(digest: Any, value: torch.Tensor) -> None:
    digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
    plain = value.detach().cpu().contiguous()
    if plain.numel():
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
