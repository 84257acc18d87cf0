"""Compiles Triton kernels without a GPU, and tells what the machine code holds: registers, spills, instructions."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tersor.errors import BackendError
from tersor.kernels.tile import Tile

ALIGNED = 16
"""Bytes to which tensors of PyTorch are aligned, and what sizes are taken to be multiples of."""

_POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bool: "*i1",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.float8_e5m2: "*fp8e5",
}

Operand = torch.dtype | int | float | None
"""What stands for an operand: the dtype of a tensor, an example of a number, None for a tensor that is left out."""


@dataclass(frozen=True)
class Code:
    """One compiled variant of a kernel.

    Attributes:
        capability: compute capability, 80 or 90.
        registers: of a thread.
        stack: bytes of a thread's stack, which spilled registers are kept on.
        shared: bytes of shared memory of a block of threads.
        warps: of a block of threads.
        instructions: how many of each kind the machine code holds, by the part of its name before the first dot.
        ptx: the assembly that it was made from.
        cubin: the machine code as a file.
        entry: the name of its one function.
    """

    capability: int
    registers: int
    stack: int
    shared: int
    warps: int
    instructions: Mapping[str, int]
    ptx: str
    cubin: bytes = field(default=b"", repr=False)
    entry: str = ""

    def count(self, *names: str) -> int:
        """Instructions of any of these kinds."""
        return sum(self.instructions.get(name, 0) for name in names)

    @property
    def spills(self) -> int:
        """Reads and writes of the stack."""
        return self.count("LDL", "STL")

    @property
    def total(self) -> int:
        """All instructions but the padding at the end."""
        return sum(self.instructions.values()) - self.count("NOP")


@dataclass(frozen=True, eq=False)
class Variant:
    """A kernel as it is compiled for certain sizes and formats.

    Attributes:
        name: of the kernel.
        text: sizes and formats, for people.
        kernel: the function under ``triton.jit``.
        operands, constants: as `build` takes them.
        tile: blocks, warps and stages.
    """

    name: str
    text: str
    kernel: Any
    operands: Sequence[Operand]
    constants: Mapping[str, Any]
    tile: Tile

    def compile(self, capability: int) -> Code:
        """Its machine code; raises BackendError as `build` does."""
        constants = {**self.constants, **self.tile.blocks}
        warps, stages = self.tile.warps, self.tile.stages
        return build(self.kernel, self.operands, constants, capability, warps=warps, stages=stages)


def build(
    kernel: Any,
    operands: Sequence[Operand],
    constants: Mapping[str, Any],
    capability: int,
    *,
    aligned: bool = True,
    warps: int = 4,
    stages: int = 3,
) -> Code:
    """Compile one variant.

    Args:
        kernel: a function under ``triton.jit``.
        operands: for each of its parameters that is no constant, in order: the dtype of a tensor, an example of an
            integer or of a float, or None for a tensor that is left out.
        constants: its other parameters by name.
        capability: 80 for A100, 90 for H100.
        aligned: whether tensors begin at multiples of 16 bytes and integers are multiples of 16 where their examples
            are; otherwise nothing is assumed.
        warps, stages: as Triton's launch options.

    Raises:
        BackendError: Triton is not installed, its interpreter is on, or its tools do not run.
    """
    try:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
    except ImportError as error:
        raise BackendError("Triton is not installed", "pip install triton") from error
    if not isinstance(kernel, triton.JITFunction):
        raise BackendError(f"{kernel} is not compiled but interpreted", "unset TRITON_INTERPRET before the import")
    source = ASTSource(kernel, *_described(kernel.arg_names, operands, constants, aligned))
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    binary = made.asm["cubin"]
    registers, stack = _resources(binary)
    counts, shared = _instructions(binary), made.metadata.shared
    return Code(capability, registers, stack, shared, warps, counts, made.asm["ptx"], binary, made.metadata.name)


def _described(
    names: Sequence[str], operands: Sequence[Operand], constants: Mapping[str, Any], aligned: bool
) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], list[list[Any]]]]:
    """Signature, constants and what is known of the operands, as Triton wants them."""
    signature, known, facts = dict.fromkeys(names, "constexpr"), dict(constants), {}
    variable = [name for name in names if name not in constants]
    for name, operand in zip(variable, operands, strict=True):
        if operand is None:
            known[name] = None
            continue
        signature[name] = _type(operand)
        if aligned and not isinstance(operand, float) and (not isinstance(operand, int) or operand % ALIGNED == 0):
            facts[names.index(name),] = [["tt.divisibility", ALIGNED]]
    return signature, known, facts


def _type(operand: torch.dtype | int | float) -> str:
    """Triton's name of what an operand is passed as."""
    if isinstance(operand, torch.dtype):
        return _POINTERS[operand]
    return "fp32" if isinstance(operand, float) else "i32"


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of the one function in a binary."""
    text = _tool("cuobjdump", "-res-usage", cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if found is None:
        raise BackendError("cuobjdump does not tell what the kernel uses", f"it says {text.strip()[:80]!r}")
    return int(found.group(1)), int(found.group(2))


def _instructions(cubin: bytes) -> Counter[str]:
    """Machine instructions by kind."""
    line = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", re.MULTILINE)
    return Counter(line.findall(_tool("nvdisasm", "-c", cubin)))


def _tool(name: str, option: str, cubin: bytes) -> str:
    """What one of the tools beside Triton's assembler says of a binary."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        try:
            done = subprocess.run([tool, option, path], capture_output=True, text=True, timeout=600, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise BackendError(f"{name} of Triton does not run: {error}", "install triton from its wheel") from error
    return done.stdout
