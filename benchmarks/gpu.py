"""On a machine with a GPU: checks the kernels against their references, and times them beside PyTorch's.

Run: python benchmarks/gpu.py [--out FOLDER] [--seconds 0.2] [--quick]. Writes ``gpu.json`` to the folder, or to that
named by the variable OUT. Needs PyTorch with CUDA and Triton, no installed Tersor. A part that fails leaves its reason
in the file and does not stop the others.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
ROWS = (1, 4, 16, 64)
SHAPES = ((4096, 4096), (4096, 14336), (14336, 4096), (8192, 8192), (4096, 128256))
"""Inputs and outputs of layers of Llama-3-8B, its head included, and of a larger model."""
QUICK = ((4096, 4096), (4096, 14336))
MIB = 1 << 20


def find_tersor() -> None:
    """Make ``tersor`` importable from the checkout where it is not installed: folders are its sub-packages."""
    if importlib.util.find_spec("tersor") is not None:
        return
    for name, folder in {"tersor": "optimizer", "tersor.kernels": "kernels"}.items():
        package = types.ModuleType(name)
        package.__path__ = [str(ROOT / folder)]
        sys.modules[name] = package


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "out")))
    parser.add_argument("--seconds", type=float, default=0.2, help="of measuring, for each contestant")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("this PyTorch sees no GPU; there is nothing to measure")
        return 1
    find_tersor()
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name, part in (("machine", machine), ("check", check), ("time", lambda: compare(options))):
        found[name] = guarded(part)
        (options.out / "gpu.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(json.dumps(found["machine"]), json.dumps(found["check"]), sep="\n")
    show(found["time"])
    return 0


def guarded(part: Callable[[], Any]) -> Any:
    """What a part gives, or why it gives nothing."""
    try:
        return part()
    except Exception as error:
        return {"why": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def machine() -> dict[str, Any]:
    import triton

    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "bandwidth": bandwidth(),
    }


def bandwidth() -> float:
    """Bytes per second at which a gigabyte is summed up: reading alone, as weights are read."""
    value = torch.ones(256 * MIB, device="cuda", dtype=torch.float32)
    return value.nbytes / min(times(lambda: value.sum(), 0.5, cold=False))


def check() -> list[dict[str, Any]]:
    """Largest error of each format and shape against the reference on the same GPU's numbers, on the CPU."""
    rows = []
    for name in ("float32", "float16", "bfloat16", "int8"):
        for rows_, inputs, outputs in ((1, 4096, 4096), (5, 768, 3072), (33, 1024, 257), (3, 100, 37), (70, 12, 20)):
            case = {"format": name, "shape": [rows_, inputs, outputs]}
            rows.append({**case, **guarded(lambda n=name, s=(rows_, inputs, outputs): one_check(n, *s))})
    return rows


def one_check(name: str, rows: int, inputs: int, outputs: int) -> dict[str, Any]:
    from tersor.kernels.sparse_24_matmul import reference, sparse_24_matmul

    given = operands(name, rows, inputs, outputs)
    made = sparse_24_matmul(*given).float().cpu()
    wanted = reference(*(None if item is None else item.cpu() for item in given)).float()
    error = float((made - wanted).abs().max() / wanted.abs().max())
    return {"error": error, "good": error < {"float32": 1e-5, "float16": 2e-3}.get(name, 1e-2)}


def operands(name: str, rows: int, inputs: int, outputs: int) -> list[Any]:
    """x, values, metadata, scale, bias on the GPU; a random place of two for each block."""
    draw = torch.Generator("cuda").manual_seed(0)
    dtype = torch.bfloat16 if name == "int8" else getattr(torch, name)
    x = torch.randn(rows, inputs, generator=draw, device="cuda").to(dtype)
    values = torch.randn(outputs, inputs // 2, generator=draw, device="cuda")
    values = (values * 40).clamp(-127, 127).to(torch.int8) if name == "int8" else (values / inputs**0.5).to(dtype)
    codes = torch.tensor([4, 8, 12, 9, 13, 14], device="cuda", dtype=torch.uint8)
    places = codes[torch.randint(6, (outputs, -(-inputs // 8), 2), generator=draw, device="cuda")]
    scale = torch.full((outputs,), 1 / (40 * inputs**0.5), device="cuda") if name == "int8" else None
    metadata = places[..., 0] + 16 * places[..., 1]
    if inputs % 8:
        metadata[:, -1] &= 15
    return [x, values, metadata, scale, None]


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each shape: dense cuBLAS, PyTorch's semi-structured tensors, and ours in two formats; microseconds."""
    peak, rows = bandwidth(), []
    for inputs, outputs in QUICK if options.quick else SHAPES:
        for count in ROWS:
            row: dict[str, Any] = {"rows": count, "inputs": inputs, "outputs": outputs}
            for name, make in contestants(count, inputs, outputs).items():
                row[name] = guarded(lambda make=make: timed(*make(), options.seconds, peak))
                torch.cuda.empty_cache()
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def contestants(rows: int, inputs: int, outputs: int) -> dict[str, Callable[[], tuple[Callable[[], Any], float]]]:
    """For each what runs it, and the bytes that it has to move."""
    from tersor.kernels.sparse_24_matmul import sparse_24_matmul, work
    from tersor.sparse.pack import Packed, unpack

    half, whole = operands("bfloat16", rows, inputs, outputs), operands("int8", rows, inputs, outputs)
    moved = (rows * (inputs + outputs) + inputs * outputs) * 2

    def weight() -> torch.Tensor:
        return unpack(Packed(half[1], half[2]))

    def dense() -> tuple[Callable[[], Any], float]:
        full = weight()
        return lambda: torch.nn.functional.linear(half[0], full), moved

    def semi_structured() -> tuple[Callable[[], Any], float]:
        made = torch.sparse.to_sparse_semi_structured(weight())
        return lambda: torch.nn.functional.linear(half[0], made), work(
            rows, inputs, outputs, torch.bfloat16, torch.bfloat16
        ).bytes

    def ours(given: list[Any]) -> tuple[Callable[[], Any], float]:
        bound = work(rows, inputs, outputs, given[0].dtype, given[1].dtype, bias=False)
        return lambda: sparse_24_matmul(*given), bound.bytes

    return {
        "dense bfloat16": dense,
        "semi-structured bfloat16": semi_structured,
        "2:4 bfloat16": lambda: ours(half),
        "2:4 int8": lambda: ours(whole),
    }


def timed(call: Callable[[], Any], moved: float, seconds: float, peak: float) -> dict[str, float]:
    """Median time of one call, and the share of what its bytes allow at least."""
    found = statistics.median(times(call, seconds))
    return {"microseconds": found * 1e6, "roofline": moved / peak / found}


def times(call: Callable[[], Any], seconds: float, cold: bool = True) -> list[float]:
    """Seconds of single calls on the GPU.

    With ``cold`` half a gigabyte is overwritten before each, as other layers would do with the cache; meanwhile the
    call is launched, so that the time that this takes does not count.
    """
    flush = torch.empty(512 * MIB if cold else 1, dtype=torch.int8, device="cuda")
    for _ in range(3):
        call()
    found: list[float] = []
    while len(found) < 20 or (sum(found) < seconds and len(found) < 500):
        flush.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e3)
    return found


def told(value: dict[str, Any]) -> str:
    return value["why"] if "why" in value else f"{value['microseconds']:.1f} µs ({value['roofline']:.0%})"


def show(rows: Any) -> None:
    """The times as a table."""
    for row in rows if isinstance(rows, list) else []:
        cells = [f"{name} {told(value)}" for name, value in row.items() if isinstance(value, dict)]
        print(f"{row['rows']} x {row['inputs']} to {row['outputs']}: " + ", ".join(cells))


if __name__ == "__main__":
    sys.exit(main())
