"""ONNX out: from a `Program` to a checked file with the original's names, axes and metadata."""

from __future__ import annotations

from pathlib import Path

from tersor.export.model import DEFAULT_OPSET, to_onnx_model
from tersor.export.verify import verify_onnx
from tersor.export.write import check_destination, to_bytes, write_model
from tersor.program import Program

__all__ = ["DEFAULT_OPSET", "save_onnx", "to_bytes", "to_onnx_model", "verify_onnx", "write_model"]


def save_onnx(
    program: Program, path: str | Path, opset: int | None = None, *, external_data: bool | None = None
) -> Path:
    """Write a program as an ONNX file that ``onnx.checker`` accepts.

    The file appears complete or not at all, and replaces an earlier one. Models over 2 GB get their weights in
    ``<name>.data`` beside the file, smaller ones where ``external_data`` asks for it.

    Raises:
        ExportError: see `to_onnx_model`.
        OutputError: the path cannot be written.
    """
    path = Path(path)
    check_destination(path)
    write_model(to_onnx_model(program, opset), path, external_data)
    return path
