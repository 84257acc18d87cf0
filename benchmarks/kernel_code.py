"""What the Triton kernels become for sm_80 and sm_90: registers, spills, shared memory, instructions; needs no GPU.

Run: python benchmarks/kernel_code.py [--capabilities 80,90] [--write].
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import write

KINDS = {
    "tensor-core products": ("HMMA", "HGMMA", "IMMA", "IGMMA"),
    "FMA": ("FFMA", "HFMA2"),
    "async copies": ("LDGSTS", "UBLKCP", "UTMALDG"),
    "global loads": ("LDG",),
    "shared loads": ("LDS", "LDSM"),
    "shared stores": ("STS", "STSM"),
    "selects": ("SEL", "FSEL"),
    "barriers": ("BAR",),
}
"""Machine instructions by what they do."""

Variant = tuple[str, str, Callable[[int], Any]]
"""Kernel, what it was compiled for, and what compiles it for a compute capability."""


def variants() -> Iterator[Variant]:
    """Each kernel at the sizes and in the formats that matter."""
    from tersor.kernels import sparse_24_matmul

    formats = [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float16), (torch.bfloat16, torch.int8)]
    for rows, inputs, outputs in ((1, 4096, 4096), (64, 4096, 14336)):
        for x, values in formats:
            yield _sparse(sparse_24_matmul, rows, inputs, outputs, x, values)
    yield _sparse(sparse_24_matmul, 1, 4096, 4096, torch.float32, torch.float32)
    yield _sparse(sparse_24_matmul, 3, 100, 37, torch.bfloat16, torch.bfloat16)


def _sparse(module: Any, rows: int, inputs: int, outputs: int, x: torch.dtype, values: torch.dtype) -> Variant:
    names = [str(dtype).removeprefix("torch.") for dtype in (x, values)]
    text = f"{rows} x {inputs} to {outputs}, {names[0]}" + (f", {names[1]} weights" if x != values else "")
    return "sparse_24_matmul", text, lambda capability: module.compiled(rows, inputs, outputs, x, values, capability)


def table(capabilities: list[int]) -> str:
    import triton

    columns = ["kernel", "compiled for", "sm", "registers", "spills", "stack", "shared", *KINDS, "all"]
    lines = [
        f"Machine code that Triton {triton.__version__} and its own ptxas make; instructions are counted as they "
        "stand in the code, inside and outside of loops, padding left out. *spills* are reads and writes of a thread's "
        "stack, *shared* and *stack* are bytes.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for name, text, compiled in variants():
        for capability in capabilities:
            code = compiled(capability)
            counts = [code.count(*kinds) for kinds in KINDS.values()]
            cells = [name, text, capability, code.registers, code.spills, code.stack, code.shared, *counts, code.total]
            lines.append(f"| {' | '.join(map(str, cells))} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capabilities", default="80,90")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    text = table([int(item) for item in options.capabilities.split(",")])
    print(text)
    if options.write:
        write("kernel_code", "Machine code of the kernels", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
