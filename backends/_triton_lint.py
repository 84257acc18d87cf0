"""What runs slowly or not at all on a CUDA device: dtypes, head sizes, sizes of layers, sizes that are not fixed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from tersor.backend import Finding
from tersor.backends._lint import dtype_findings
from tersor.backends._triton_gate import Gate
from tersor.backends._triton_lower import lower
from tersor.program import Program
from tersor.rewrite_values import arguments, fake, key, known, tensor
from tersor.target import Target

_ALIGNED = 16
"""Bytes of which sizes of layers must be multiples for tensor cores (NVIDIA, Deep Learning Performance Guide)."""
_FLASH = (8, 256)
"""Head sizes that PyTorch's FlashAttention takes: multiples of the one, up to the other."""
_ON_CPU = ("nonzero", "_local_scalar_dense", "item", "masked_select", "unique_dim", "_unique2")
"""Operators whose results the CPU waits for."""


def findings(program: Program, target: Target) -> list[Finding]:
    """All findings, those that forbid the backend first."""
    found = [*_device(program, target), *_dtypes(program, target)]
    for node in program.nodes:
        found += [*_heads(node), *_alignment(node), *_waits(node)]
    if program.dimensions:
        names = ", ".join(sorted(dimension.name for dimension in program.dimensions.values()))
        found.append(Finding("", f"sizes differ from call to call ({names}), so no CUDA graphs", "fix them at capture"))
    found += _sparse(program, target)
    return sorted(found, key=lambda item: not item.fatal)


def _device(program: Program, target: Target) -> Iterator[Finding]:
    if target.device != "cuda":
        yield Finding("", f"target {target.name} is no CUDA device", "choose one, such as h100", fatal=True)
    if program.opaque:
        yield Finding("", "it holds ONNX nodes without a torch function", "use the onnxruntime backend", fatal=True)


def _dtypes(program: Program, target: Target) -> list[Finding]:
    slow = {
        "float64": "has no tensor cores in most devices",
        "complex64": "is not fused by Inductor",
        "complex128": "is not fused by Inductor",
    }
    capability = Gate(target).capability
    if 0 < capability < 80:
        slow["bfloat16"] = f"is emulated on compute capability {target.capability}"
    if 0 < capability < 89:
        slow |= dict.fromkeys(_FP8, "is multiplied as float16 before compute capability 8.9")
    return dtype_findings(program, fatal={}, slow=slow)


_FP8 = ("float8_e4m3fn", "float8_e5m2")


def _heads(node: fx.Node) -> Iterator[Finding]:
    if key(node) != "scaled_dot_product_attention":
        return
    sizes = {known(fake(arguments(node)[name]).shape[-1]) for name in ("query", "value")}
    odd = [size for size in sizes if size is not None and (size % _FLASH[0] or size > _FLASH[1])]
    if odd:
        problem = f"no fused attention takes heads of {odd[0]}: multiples of {_FLASH[0]} up to {_FLASH[1]}"
        yield Finding(node.name, problem, "pad heads with zeros, or keep the scale and split them")


def _alignment(node: fx.Node) -> Iterator[Finding]:
    if key(node) not in ("linear", "mm", "addmm"):
        return
    weight = tensor(arguments(node).get("weight", node.args[-1]))
    if weight is None or weight.dim() != 2 or weight.dtype == torch.float64:
        return
    step = _ALIGNED // weight.dtype.itemsize
    odd = [size for size in map(known, weight.shape) if size is not None and size % step]
    if odd:
        problem = f"a size of {odd[0]} is no multiple of {step}, which tensor cores want in {weight.dtype}"
        yield Finding(node.name, problem, f"pad it to {-(-odd[0] // step) * step}")


def _waits(node: fx.Node) -> Iterator[Finding]:
    if key(node) in _ON_CPU:
        yield Finding(node.name, f"{key(node)} makes the CPU wait and forbids CUDA graphs", "use masks of a fixed size")


def _sparse(program: Program, target: Target) -> Iterator[Finding]:
    """2:4 weights that no sparse kernel reads."""
    for site in lower(program, target).declined:
        if "2:4" in site.detail or "sparse_24" in site.detail:
            yield Finding(site.node, site.detail, "use float16 or bfloat16 and sizes that are multiples of 16")
