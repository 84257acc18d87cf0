"""On a machine with a GPU: checks every kernel against its reference, and times it beside the best that PyTorch has.

Run: python benchmarks/gpu.py [--out FOLDER] [--seconds 0.2] [--kernel NAME] [--autotune] [--dry-run]. Writes
``gpu.json`` to the folder, or to that named by the variable OUT, and prints what belongs into ``MEASURED`` of
`backends/_triton_gate.py`. Needs PyTorch with CUDA and Triton, no installed Tersor. A part that fails leaves its reason
in the file and does not stop the others. ``--dry-run`` runs everything once in small on the CPU, by the references.
"""

from __future__ import annotations

import argparse
import contextlib
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
sys.path.insert(0, str(ROOT))
MIB = 1 << 20

from benchmarks.gpu_cases import Bench, Case, cases  # noqa: E402


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
    parser.add_argument("--kernel", action="append", help="only this one; repeatable")
    parser.add_argument("--autotune", action="store_true", help="try all tiles of the tables for each shape")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.dry_run:
        print("this PyTorch sees no GPU; there is nothing to measure (--dry-run runs the parts that need none)")
        return 1
    find_tersor()
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": {} if options.dry_run else guarded(machine), "kernels": []}
    for case in cases(Bench("cpu" if options.dry_run else "cuda", options.dry_run)):
        if options.kernel and case.kernel not in options.kernel:
            continue
        found["kernels"].append(compared(case, found["machine"], options))
        print(told(found["kernels"][-1]), flush=True)
        (options.out / "gpu.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    found["measured"] = {} if options.dry_run else summary(found)
    (options.out / "gpu.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(json.dumps(found["machine"]))
    for name, ratio in found["measured"].items():
        print(f'    ("{name}", {found["machine"]["capability"]}): {ratio:.2f},')
    return 0


def guarded(part: Callable[[], Any]) -> Any:
    """What a part gives, or why it gives nothing."""
    try:
        return part()
    except Exception as error:
        return {"why": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def machine() -> dict[str, Any]:
    import triton

    from tersor.targets.sheets import sheets

    properties = torch.cuda.get_device_properties(0)
    near = [s for s in sheets().values() if s.capability == f"{properties.major}.{properties.minor}"]
    named = [s for s in near if s.name.split("-")[0] in properties.name.lower()]
    sheet = next(iter([*named, *near]), None)
    return {
        "gpu": properties.name,
        "capability": 10 * properties.major + properties.minor,
        "multiprocessors": properties.multi_processor_count,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "bandwidth": bandwidth(),
        "sheet": sheet.name if sheet else "",
        "rates": dict(sheet.rates) if sheet else {},
    }


def bandwidth() -> float:
    """Bytes per second at which a gigabyte is summed up: reading alone, as weights are read."""
    value = torch.ones(256 * MIB, device="cuda", dtype=torch.float32)
    return value.nbytes / min(times(lambda: value.sum(), 0.5, cold=False))


def compared(case: Case, where: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Error, and time and share of the roofline of ours and of every rival."""
    row: dict[str, Any] = {"kernel": case.kernel, "case": case.text, "flops": case.work.operations}
    row |= {"bytes": case.work.bytes, "error": guarded(lambda: error(case))}
    rate = where.get("rates", {}).get(case.rate) or where.get("rates", {}).get("float32", 0.0)
    moving = case.work.bytes / where["bandwidth"] if where.get("bandwidth") else 0.0
    bound = max(moving, case.work.operations / rate if rate else 0.0)
    row["bound_us"], row["contestants"] = bound * 1e6, {}
    for name, make in {"ours": case.ours, **case.rivals}.items():
        row["contestants"][name] = guarded(lambda make=make: timed(make, bound, options))
        if not options.dry_run:
            torch.cuda.empty_cache()
    best = [v["microseconds"] for n, v in row["contestants"].items() if n != "ours" and "microseconds" in v]
    own = row["contestants"]["ours"].get("microseconds")
    row["ratio"] = min(best) / own if best and own else None
    return row


def error(case: Case) -> float | None:
    """The largest error of ours, as a share of the largest result."""
    if case.checked is None:
        return None
    worst = 0.0
    for got, true in zip(flat(case.ours()()), flat(case.checked()()), strict=True):
        if got.dtype.is_floating_point and true.numel():
            size = float(true.float().abs().max()) or 1.0
            worst = max(worst, float((got.float() - true.float()).abs().max()) / size)
    return worst


def flat(value: Any) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else list(value)


def timed(make: Callable[[], Callable[[], Any]], bound: float, options: argparse.Namespace) -> dict[str, Any]:
    """Median time of one call, and the share of what its operations and bytes allow at least."""
    call = make()
    if options.dry_run:
        call()
        return {"ran": True}
    with tuning() if options.autotune else contextlib.nullcontext():
        call()
    found = statistics.median(times(call, options.seconds))
    return {"microseconds": found * 1e6, "roofline": bound / found}


def tuning() -> contextlib.AbstractContextManager[None]:
    from tersor.kernels.autotune import autotuned

    return autotuned()


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


def summary(found: dict[str, Any]) -> dict[str, float]:
    """The least ratio of each kernel over its cases."""
    ratios: dict[str, list[float]] = {}
    for row in found["kernels"]:
        if row["ratio"]:
            ratios.setdefault(row["kernel"], []).append(row["ratio"])
    return {name: min(values) for name, values in ratios.items()}


def told(row: dict[str, Any]) -> str:
    """One line of a case."""
    cells = []
    for name, value in row["contestants"].items():
        if "microseconds" in value:
            cells.append(f"{name} {value['microseconds']:.1f} us ({value['roofline']:.0%})")
        else:
            cells.append(f"{name} {value.get('why', 'ran')}")
    return f"{row['kernel']} {row['case']}, error {row['error']}: " + "; ".join(cells)


if __name__ == "__main__":
    sys.exit(main())
