"""Time of capture, each pass, verification and export against graph size; import time and peak memory.

Run: python benchmarks/compile_time.py [--largest 20000] [--write]
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import write

SIZES = (300, 1250, 5000, 20000)
EXPORT = "torch.export.export alone"
"""What torch itself takes of a capture."""


def chain(nodes: int) -> Any:
    """A residual network of linear, layer norm and hand-written gelu: about 10 operators a block."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(32), nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.up(self.norm(x))
            h = h * 0.5 * (1.0 + torch.erf(h * 0.7071067811865476))
            return x + self.down(h) * 1.0

    return nn.Sequential(*[Block() for _ in range(nodes // 10)]).eval()


def measure(nodes: int) -> dict[str, float]:
    """Seconds by stage for one size."""
    import torch

    from tersor import spec
    from tersor.capture import load
    from tersor.context import Context
    from tersor.export import save_onnx
    from tersor.passes import EXACT
    from tersor.pipeline import Reference
    from tersor.refresh import refresh

    taken: dict[str, float] = {}

    def timed(name: str, function: Any, *arguments: Any) -> Any:
        started = time.perf_counter()
        result = function(*arguments)
        taken[name] = taken.get(name, 0.0) + time.perf_counter() - started
        return result

    example, dynamic = (torch.randn(2, 32),), ({0: torch.export.Dim("batch")},)
    model = chain(nodes)
    timed(EXPORT, partial(torch.export.export, dynamic_shapes=dynamic, strict=False), model, example)
    program = timed("capture", load, model, example, dynamic)
    taken["operators"] = sum(node.op == "call_function" for node in program.nodes)
    reference = timed("reference runs", Reference.of, program)
    for item in spec.parse(EXACT):
        timed(spec.render_one(item), item, program, Context())
        timed("refresh", refresh, program)
    timed("verification", reference.judge, "after all passes", program.run_flat)
    with tempfile.TemporaryDirectory() as folder:
        timed("export", save_onnx, program, Path(folder) / "model.onnx")
    return taken


def exponent(sizes: list[float], seconds: list[float]) -> float:
    """Slope of log time over log size: 1 is linear, 2 quadratic."""
    points = [(math.log(n), math.log(max(s, 1e-4))) for n, s in zip(sizes, seconds, strict=True)]
    return statistics.linear_regression([x for x, _ in points[-3:]], [y for _, y in points[-3:]]).slope


def import_time() -> tuple[float, bool]:
    """Median seconds that ``import tersor`` adds to starting Python, and whether it imports torch."""

    def run(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - started

    bare = statistics.median(run("pass") for _ in range(7))
    ours = statistics.median(run("import tersor") for _ in range(7))
    probe = subprocess.run(
        [sys.executable, "-c", "import sys, tersor; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return ours - bare, probe.stdout.strip() == "True"


MEMORY = """
import resource, sys, torch, tempfile, pathlib
from torch import nn
import tersor
from tersor.capture import load
from tersor.pipeline import Reference, run
from tersor.spec import parse
from tersor.passes import EXACT
from tersor.export import save_onnx
model = nn.Sequential(*[nn.Linear(4096, 4096) for _ in range({layers})]).eval()
size = sum(p.numel() * 4 for p in model.parameters())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
with torch.no_grad():
    model(torch.randn(2, 4096))
program = load(model, (torch.randn(2, 4096),))
outcome = run(program, parse(EXACT), Reference.of(program))
with tempfile.TemporaryDirectory() as folder:
    save_onnx(outcome.program, pathlib.Path(folder) / "model.onnx")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(size, before - size, peak)
"""


def memory(layers: int = 16) -> tuple[float, float]:
    """Model size in GB, and the peak during capture, passes and export as a multiple of it, the libraries aside."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY.format(layers=layers)], capture_output=True, text=True, check=True
    )
    size, libraries, peak = map(float, done.stdout.split()[-3:])
    return size / 1e9, (peak - libraries) / size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    sizes = [size for size in SIZES if size <= options.largest]
    columns = []
    for size in sizes:
        columns.append(measure(size))
        print(size, {key: round(value, 2) for key, value in columns[-1].items()}, flush=True)
    text = table(columns)
    seconds, loads_torch = import_time()
    gigabytes, multiple = memory()
    text += (
        f"\n\n`import tersor`: {seconds:.3f} s; it {'imports' if loads_torch else 'does not import'} torch."
        f"\n\nPeak memory over capture, all passes and export of a {gigabytes:.1f} GB model: "
        f"{multiple:.2f} times the model."
    )
    print(text)
    if options.write:
        write("compile_time", "Time and memory of the tool itself", text)
    return 0


def table(columns: list[dict[str, float]]) -> str:
    counts = [column["operators"] for column in columns]
    head = " | ".join(f"{count:,.0f} operators" for count in counts)
    lines = [f"| seconds | {head} | exponent |", "|---" * (len(columns) + 2) + "|"]
    for name in columns[0]:
        if name != "operators":
            row = [column.get(name, 0.0) for column in columns]
            slope = f"{exponent(counts, row):.2f}" if len(columns) > 2 else ""
            lines.append(f"| {name} | {' | '.join(f'{value:.2f}' for value in row)} | {slope} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
