"""What the saved folders share: the model file, and a script of five lines that runs it without Tersor."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import torch

from tersor.errors import BackendError, OutputError
from tersor.export import to_onnx_model
from tersor.export.reexport import reexport
from tersor.export.write import write_model
from tersor.program import Program

_NUMPY = {torch.bool: "bool", torch.complex64: "complex64", torch.complex128: "complex128"}


def save_onnx_folder(program: Program, folder: Path, script: str, model: ir.Model | None = None) -> list[Path]:
    """Write ``model.onnx`` and ``run.py``; ``script`` uses ``{inputs}`` for a dict of zero arrays by name.

    ``model`` is what the file holds, where that is not what all runtimes read.
    """
    make_folder(folder)
    path = folder / "model.onnx"
    write_model(to_onnx_model(program) if model is None else model, path)
    made = [path, path.with_name("model.onnx.data")]
    return [*(file for file in made if file.exists()), write_script(folder, script.format(inputs=arrays(program)))]


def make_folder(folder: Path) -> None:
    """Make the folder where it does not exist; raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder '{folder}' cannot be made: {error.strerror}", "give another path") from error


def write_script(folder: Path, text: str) -> Path:
    """Write ``run.py`` under a temporary name and rename it."""
    path = folder / "run.py"
    temporary = folder / ".run.py.partial"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path


def arrays(program: Program) -> str:
    """Python source of a dict of numpy zeros with the names, shapes and dtypes of the example inputs."""
    items = zip(program.interface.input_names, program.inputs, strict=True)
    return "{" + ", ".join(f"{name!r}: np.zeros({tuple(x.shape)}, {_dtype(name, x)!r})" for name, x in items) + "}"


def _dtype(name: str, value: torch.Tensor) -> str:
    text = str(value.dtype).removeprefix("torch.")
    if text.startswith(("bfloat", "float8")):
        raise BackendError(
            f"input '{name}' is {text}, which numpy lacks, so no example script can be written",
            "give the model float32 or float16 inputs and cast inside it",
        )
    return text


def save_exported(program: Program, folder: Path, script: str) -> list[Path]:
    """Write ``model.pt2`` and ``run.py``; ``script`` uses ``{inputs}`` for a list of zero tensors."""
    if program.opaque:
        raise BackendError(
            "the program holds ONNX nodes without a torch function, which a .pt2 file cannot carry",
            "save with the onnxruntime backend",
        )
    make_folder(folder)
    path, temporary = folder / "model.pt2", folder / ".partial.pt2"
    torch.export.save(reexport(program), temporary)
    temporary.replace(path)
    zeros = ", ".join(f"torch.zeros({list(value.shape)}, dtype={value.dtype})" for value in program.inputs)
    return [path, write_script(folder, script.format(inputs=zeros))]
