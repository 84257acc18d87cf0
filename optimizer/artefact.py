"""Write results to disk: whole or not at all, and only after they were checked."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tersor.backend import Backend, find_backend
from tersor.check import RUNTIME_FLOOR, failure
from tersor.errors import OutputError, ParityError
from tersor.pipeline import Reference
from tersor.program import Program
from tersor.report.model import Report
from tersor.target import detect

SAVERS = ("onnxruntime", "onnxruntime_tensorrt", "openvino", "tensorrt")
"""Backends whose own files are deployed; for the others ONNX Runtime's are."""


def checked_writer(
    program: Program, reference: Reference, default: int | None = None
) -> Callable[[Path, int | None], Path]:
    """A function that exports a program, and raises ParityError where the file computes something else."""

    def write(path: Path, opset: int | None) -> Path:
        from tersor.export import save_onnx
        from tersor.export.runtime import Session

        with staged(path) as folder:
            made = save_onnx(program, folder / path.name, default if opset is None else opset)
            session = Session(made, detect().threads)
            parities = reference.judge("the ONNX file", lambda *inputs: session.run(inputs), RUNTIME_FLOOR)
            problem = failure(parities)
            if problem:
                raise ParityError(f"the exported ONNX file computes something else: {problem}", "try another opset")
        return path

    return write


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``; its files replace those of the same names when the block ends well."""
    if not path.parent.is_dir():
        raise OutputError(f"folder {str(path.parent)!r} does not exist", "create it first")
    if path.is_dir():
        raise OutputError(f"{str(path)!r} is a folder", "give a file name")
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise OutputError(
            f"cannot write into {str(path.parent)!r}: {error.strerror}", "choose another folder"
        ) from None
    try:
        yield folder
        for made in sorted(folder.iterdir(), key=lambda item: item.name == path.name):
            made.replace(path.parent / made.name)
    except OSError as error:
        raise OutputError(
            f"cannot write {str(path)!r}: {error.strerror}", "free some space or choose another"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def saver_for(backend: Backend) -> Backend:
    """What writes the folder for a program that a backend runs, where the user names no other."""
    return backend if backend.name in SAVERS else find_backend("onnxruntime")


def write_folder(folder: Path, program: Program, backend: Backend, report: Report) -> Path:
    """Model, example and report in one folder, written whole or not at all."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{str(folder)!r} exists and is not an empty folder", "choose another folder")
    if not folder.parent.is_dir():
        raise OutputError(f"folder {str(folder.parent)!r} does not exist", "create it first")
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        backend.save(program, made)
        (made / "report.json").write_text(report.json(), encoding="utf-8")
        report.html(made / "report.html")
        if folder.exists():
            folder.rmdir()
        made.chmod(0o755)
        made.replace(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder
