"""Keep an ONNX file as it is where it cannot be captured: it still runs, and the report says why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from tersor.artefact import staged
from tersor.errors import BackendError, ExportError, ModelFileError, OutputError, ParityError
from tersor.interface import Flat, Interface
from tersor.optimized import Optimized, Writer
from tersor.report.model import Report


def keep(source: Any, reason: str, report: Report) -> Optimized:
    """An `Optimized` that runs the original file in ONNX Runtime.

    Raises ModelFileError where ONNX Runtime cannot load it either.
    """
    import onnxruntime

    report.notes.append(f"the file is kept as it is: {reason}")
    report.backend = "onnxruntime"
    payload = source if isinstance(source, str) else str(source) if isinstance(source, Path) else _bytes(source)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        line = str(error).strip().splitlines()[0]
        raise ModelFileError(f"ONNX Runtime cannot load the model either: {line}", reason) from None
    interface = Interface(
        tuple(item.name for item in session.get_inputs()), tuple(item.name for item in session.get_outputs())
    )
    return Optimized(interface, _caller(session, interface), report, _copier(source))


def _bytes(source: Any) -> bytes:
    if hasattr(source, "SerializeToString"):
        return bytes(source.SerializeToString())
    import onnx_ir

    return bytes(onnx_ir.to_proto(source).SerializeToString())


def _caller(session: Any, interface: Interface) -> Callable[..., Flat]:
    def call(*inputs: torch.Tensor) -> Flat:
        feed = {name: value.numpy() for name, value in zip(interface.input_names, inputs, strict=True)}
        try:
            results = session.run(None, feed)
        except Exception as error:
            raise BackendError(f"ONNX Runtime fails: {str(error).strip().splitlines()[0]}") from None
        return tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in results)

    return call


def or_original(write: Writer, source: Any, report: Report) -> Writer:
    """A writer that falls back to the original file where the rewritten one is not valid, and says so in the report."""

    def written(path: Path, opset: int | None) -> Path:
        try:
            return write(path, opset)
        except (ExportError, ParityError) as error:
            if opset is not None:
                raise
            report.notes.append(f"the file written is the original, unchanged: {error}")
            return _copier(source)(path, None)

    return written


def _copier(source: Any) -> Writer:
    def write(path: Path, opset: int | None) -> Path:
        if opset is not None:
            raise OutputError("a file that is kept as it is keeps its opset", "leave the opset out")
        with staged(path) as folder:
            if isinstance(source, str | Path):
                _copy(Path(source), folder / path.name)
            else:
                (folder / path.name).write_bytes(_bytes(source))
        return path

    return write


def _copy(source: Path, destination: Path) -> None:
    """The file and the external data it names, which stays under its own names."""
    shutil.copyfile(source, destination)
    model = onnx.load(str(source), load_external_data=False)
    for item in model.graph.initializer:
        for entry in item.external_data:
            if entry.key == "location" and not (destination.parent / entry.value).exists():
                shutil.copyfile(source.parent / entry.value, destination.parent / entry.value)
