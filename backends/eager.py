"""PyTorch, operator by operator: the reference, and the fallback that runs everything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from tersor.backend import Compiled, Finding
from tersor.backends._deploy import save_exported
from tersor.interface import Flat
from tersor.program import Program
from tersor.target import Target

_SCRIPT = """\
from pathlib import Path
import torch
module = torch.export.load(Path(__file__).with_name("model.pt2")).module()
outputs = module({inputs})
print([tuple(value.shape) for value in outputs])
"""


@dataclass(frozen=True)
class Eager:
    """Runs the program's graph as it is."""

    name: str = "eager"
    description: str = "PyTorch operator by operator, no compilation"

    def missing(self) -> str | None:
        """Always there: PyTorch is a dependency."""
        return None

    def compile(self, program: Program, target: Target) -> Compiled:
        """The program's own module, without gradients."""
        module = program.module()

        def run(*inputs: torch.Tensor) -> Flat:
            with torch.no_grad():
                return tuple(module(*inputs))

        return run

    def save(self, program: Program, folder: Path) -> list[Path]:
        """Write ``model.pt2``, as torch.export does, and ``run.py``, a script that needs PyTorch only."""
        return save_exported(program, folder, _SCRIPT)

    def lint(self, program: Program, target: Target) -> list[Finding]:
        """Nothing: it runs what was captured."""
        return []


BACKEND = Eager()
