"""Opening ONNX models from outside, which are hostile until checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir

from tersor.errors import ModelFileError

Source = str | Path | onnx.ModelProto | onnx_ir.Model

_FOREIGN = {
    b"PK\x03\x04": "a zip archive, perhaps of torch.save or torch.export.save",
    b"\x80": "a Python pickle",
    b"{": "text, perhaps JSON",
    b"<": "text, perhaps XML",
    b"\x89HDF": "an HDF5 file",
    b"\x7fELF": "a program",
}
_EXPORT_AGAIN = "give an ONNX file, as written by torch.onnx.export"


@dataclass(frozen=True)
class ModelFile:
    """A model whose container and versions have been checked.

    Attributes:
        proto: the model; external data is not loaded into it. Not to be changed.
        base: the folder that external data lies in, None where the model came from memory.
        path: the file, None where the model came from memory.
    """

    proto: onnx.ModelProto
    base: Path | None = None
    path: Path | None = None


def read_model(source: Source | ModelFile) -> ModelFile:
    """Open and check a model; the graph itself is checked by `graph.read_graph`.

    Raises:
        ModelFileError: the file is missing, empty, damaged, not ONNX, or of a version that is not known.
    """
    if isinstance(source, ModelFile):
        return source
    if isinstance(source, onnx_ir.Model):
        model = ModelFile(onnx_ir.to_proto(source), _base_of(source))
    elif isinstance(source, onnx.ModelProto):
        model = ModelFile(source)
    else:
        path = Path(source)
        model = ModelFile(_parse(path), path.parent, path)
    _check_versions(model)
    return model


def _base_of(model: onnx_ir.Model) -> Path | None:
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, onnx_ir.ExternalTensor):
            return Path(value.const_value.base_dir)
    return None


def _parse(path: Path) -> onnx.ModelProto:
    if not path.exists():
        raise ModelFileError(f"there is no file '{path}'", "check the path")
    if not path.is_file():
        raise ModelFileError(f"'{path}' is a folder, not a file", _EXPORT_AGAIN)
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise ModelFileError(f"'{path}' cannot be read: {error.strerror}", "check its permissions") from error
    if not head:
        raise ModelFileError(f"'{path}' is empty", "export or download it again")
    for magic, kind in _FOREIGN.items():
        if head.startswith(magic):
            raise ModelFileError(f"'{path}' is {kind}, not an ONNX model", _EXPORT_AGAIN)
    try:
        return onnx.load(str(path), format="protobuf", load_external_data=False)
    except Exception as error:  # protobuf's own errors differ between its implementations
        raise ModelFileError(f"'{path}' is damaged or not an ONNX model", "export or download it again") from error


def _check_versions(model: ModelFile) -> None:
    proto = model.proto
    what = f"'{model.path}'" if model.path else "the model"
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise ModelFileError(f"{what} holds no graph", _EXPORT_AGAIN)
    if not 1 <= proto.ir_version <= onnx.IR_VERSION:
        raise ModelFileError(
            f"{what} has IR version {proto.ir_version}; known are 1 to {onnx.IR_VERSION}",
            "update the onnx package, or export for an older version",
        )
    newest = onnx.defs.onnx_opset_version()
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx") and not 1 <= entry.version <= newest:
            raise ModelFileError(
                f"{what} uses opset {entry.version}; known are 1 to {newest}",
                "update the onnx package, or export for an older opset",
            )


def opsets(proto: onnx.ModelProto) -> dict[str, int]:
    """Opset version by domain; the default domain is spelled ''. Files before IR version 3 use opset 1."""
    versions = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in proto.opset_import}
    return versions or {"": 1}
