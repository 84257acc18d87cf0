"""PyTorch's compiler with frozen weights: fused C++ loops on the CPU, Triton on the GPU."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import sympy
import torch

from tersor.backend import Compiled, Finding
from tersor.backends._deploy import save_exported
from tersor.backends._inductor_warnings import quiet
from tersor.errors import BackendError
from tersor.interface import Flat
from tersor.program import Program
from tersor.target import Target

_OPTIONS = {"freezing": True}

_SCRIPT = """\
from pathlib import Path
import torch
module = torch.export.load(Path(__file__).with_name("model.pt2")).module()
with torch.no_grad(): outputs = torch.compile(module, options={{"freezing": True}})({inputs})
print([tuple(value.shape) for value in outputs])
"""


@dataclass(frozen=True)
class Inductor:
    """Compiles the program's graph with ``torch.compile``."""

    name: str = "inductor"
    description: str = "PyTorch's compiler with frozen weights"

    def missing(self) -> str | None:
        """It needs a C++ compiler on the CPU."""
        if shutil.which("c++") or shutil.which("g++") or shutil.which("clang++") or shutil.which("cl"):
            return None
        return "no C++ compiler found; install g++ or clang"

    def compile(self, program: Program, target: Target) -> Compiled:
        """Compile at the example sizes, with the program's dimensions dynamic; raises BackendError."""
        dynamic = bool(program.dimensions)
        compiled = torch.compile(program.module(), dynamic=dynamic, fullgraph=True, options=dict(_OPTIONS))

        def run(*inputs: torch.Tensor) -> Flat:
            with torch.no_grad(), quiet():
                return tuple(compiled(*inputs))

        try:
            run(*_marked(program))
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise BackendError(f"Inductor cannot compile the program: {lines[0]}", "try another backend") from error
        return run

    def save(self, program: Program, folder: Path) -> list[Path]:
        """Write ``model.pt2``, as torch.export does, and ``run.py``, a script that compiles and runs it."""
        return save_exported(program, folder, _SCRIPT)

    def lint(self, program: Program, target: Target) -> list[Finding]:
        """Operators that it calls one by one, because it cannot see into them."""
        return [
            Finding(node.name, f"{node.target} is called as it is, not fused", "replace it by ATen operators")
            for node in program.nodes
            if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace not in ("aten", "prims")
        ]


def _marked(program: Program) -> Flat:
    """Copies of the example inputs whose dynamic axes are declared, so that the first compilation serves all sizes."""
    inputs = []
    for example, sizes in zip(program.inputs, program.sizes, strict=True):
        copied = example.clone()
        for axis, size in enumerate(sizes):
            if isinstance(size, sympy.Symbol) and copied.shape[axis] > 1:
                torch._dynamo.maybe_mark_dynamic(copied, axis)
        inputs.append(copied)
    return tuple(inputs)


BACKEND = Inductor()
