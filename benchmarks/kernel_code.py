"""What the Triton kernels become for sm_80 and sm_90: registers, spills, shared memory, instructions; needs no GPU.

Run: python benchmarks/kernel_code.py [--capabilities 80,90] [--write].
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import write

KINDS = {
    "tensor-core products": ("HMMA", "HGMMA", "IMMA", "IGMMA", "QGMMA"),
    "FMA": ("FFMA", "HFMA2"),
    "async copies": ("LDGSTS", "UBLKCP", "UTMALDG"),
    "global loads": ("LDG",),
    "shared loads": ("LDS", "LDSM"),
    "shared stores": ("STS", "STSM"),
    "selects": ("SEL", "FSEL"),
    "barriers": ("BAR",),
}
"""Machine instructions by what they do."""


def table(capabilities: list[int]) -> str:
    import triton

    from tersor.kernels.catalogue import variants

    columns = [
        "kernel",
        "compiled for",
        "sm",
        "warps",
        "stages",
        "registers",
        "spills",
        "stack",
        "shared",
        *KINDS,
        "all",
    ]
    lines = [
        f"Machine code that Triton {triton.__version__} and its own ptxas make; instructions are counted as they "
        "stand in the code, inside and outside of loops, padding left out. *spills* are reads and writes of a thread's "
        "stack, *shared* and *stack* are bytes.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for capability in capabilities:
        for variant in variants(capability):
            code = variant.compile(capability)
            counts = [code.count(*kinds) for kinds in KINDS.values()]
            cells = [variant.name, variant.text, capability, variant.tile.warps, variant.tile.stages, code.registers]
            cells += [code.spills, code.stack, code.shared, *counts, code.total]
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
