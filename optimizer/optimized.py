"""`Optimized`: what `optimize()` returns, called like the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tersor.backend import Backend, Compiled, find_backend
from tersor.errors import ExportError
from tersor.interface import Interface
from tersor.program import Program
from tersor.report.model import Report, TrialRecord

Writer = Callable[[Path, int | None], Path]
"""Writes the ONNX file to a path, at an opset or the exporter's choice."""


@dataclass
class Optimized:
    """A fast model with the original's signature and output structure.

    Attributes:
        report: what was done, what was not, and why; ``report.text()``, ``.json()``, ``.html(path)``.
        program: the rewritten program; None where a file was kept verbatim.
        original: the program as captured; None likewise.
        backend: what runs it.
    """

    interface: Interface
    call: Compiled
    report: Report
    writer: Writer
    program: Program | None = None
    original: Program | None = None
    backend: Backend | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call with the original's arguments; raises InputError where shapes or dtypes do not fit."""
        inputs = self.interface.flatten(args, kwargs)
        if self.program is not None:
            self.program.check_inputs(inputs)
        return self.interface.unflatten(self.call(*inputs))

    @property
    def pareto(self) -> list[TrialRecord]:
        """What the planner found that none is faster than without losing more, the fastest first; empty without one."""
        return self.report.plan.front if self.report.plan is not None else []

    def to_onnx(self, path: str | Path, opset: int | None = None) -> Path:
        """Write an ONNX file, checked by running it against the original; raises ExportError or OutputError."""
        return self.writer(Path(path), opset)

    def save(self, folder: str | Path, backend: str | None = None) -> Path:
        """Write a folder that runs without Tersor: the model, a five-line example, and the report.

        ``backend`` names what it is to run on, which need not be installed here; None is what runs it now.
        Raises OutputError where the folder cannot be written.
        """
        from tersor.artefact import saver_for, write_folder

        if self.program is None or self.backend is None:
            raise ExportError("the file was kept as it is", "copy the original, or use to_onnx")
        saver = saver_for(self.backend) if backend is None else find_backend(backend)
        return write_folder(Path(folder), self.program, saver, self.report)
