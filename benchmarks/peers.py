"""The same models through what people use today and through Tersor, interleaved in one run.

Run: python benchmarks/peers.py [--models real:minilm,timm:resnet18,...] [--seconds 6] [--runtimes] [--write]
``--runtimes`` leaves Inductor out, also of what `auto` chooses among, for it compiles for minutes; --write then updates
docs/results/runtimes.md instead of peers.md.
Times are of one thread count, batch 1 where torch.onnx.export manages it, else 2.
Ratios are to ONNX Runtime on the original file: what torch.onnx.export writes, or what users have (OCR).
Every contestant takes PyTorch tensors and returns PyTorch tensors.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import write

MODELS = (
    "real:ocr-det,real:ocr-rec,real:ocr-cls,real:minilm,real:lite0,"
    "timm:resnet18,timm:vit_tiny_patch16_224,timm:swin_tiny_patch4_window7_224,timm:convnext_atto,"
    "timm:mobilenetv3_large_100,timm:efficientnet_b0,hf:bert,hf:llama,hf:t5-encoder,hf:whisper-encoder,"
    "hf:clip-vision,hf:mamba,hf:qwen3-moe"
)
AUTO = "Tersor auto"
SESSIONS = 3
"""So often are the runtimes' sessions made anew."""
CONTESTANTS = (
    "torch eager", "Inductor", "Inductor frozen", "ONNX Runtime", "OpenVINO", "onnxsim + ONNX Runtime",
    "OnnxSlim + ONNX Runtime", "onnxscript + ONNX Runtime", "Tersor + ONNX Runtime", "Tersor + OpenVINO", AUTO,
)  # fmt: skip


def export(model: Any, inputs: tuple[Any, ...] | dict[str, Any], path: Path, dynamic: Any = None) -> None:
    """torch.onnx.export as its users call it."""
    import torch

    args, kwargs = (inputs, {}) if isinstance(inputs, tuple) else ((), inputs)
    torch.onnx.export(
        model, args, str(path), kwargs=kwargs, dynamic_shapes=dynamic, dynamo=True, external_data=False, verbose=False
    )


def ort(path: Path, inputs: list[Any]) -> Callable[[], Any]:
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def run() -> Any:
        outputs = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
        return [torch.from_numpy(value) for value in outputs]

    return run


def openvino(path: Path, inputs: list[Any]) -> Callable[[], Any]:
    import openvino as ov
    import torch

    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(str(path)), "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    )
    request = compiled.create_infer_request()

    def run() -> Any:
        outputs = request.infer([value.numpy() for value in inputs])
        return [torch.from_numpy(value) for value in outputs.values()]

    return run


def rewriters(path: Path, folder: Path) -> dict[str, Callable[[], Path]]:
    """Each writes its version of the file."""
    import onnx

    def simplified() -> Path:
        import onnxsim

        made, _ = onnxsim.simplify(onnx.load(path))
        onnx.save(made, folder / "onnxsim.onnx")
        return folder / "onnxsim.onnx"

    def slimmed() -> Path:
        import onnxslim

        onnx.save(onnxslim.slim(onnx.load(path)), folder / "onnxslim.onnx")
        return folder / "onnxslim.onnx"

    def scripted() -> Path:
        import onnxscript.optimizer

        onnx.save(onnxscript.optimizer.optimize(onnx.load(path)), folder / "onnxscript.onnx")
        return folder / "onnxscript.onnx"

    return {"onnxsim": simplified, "OnnxSlim": slimmed, "onnxscript": scripted}


Call = Callable[[], Any]


def contestants(
    name: str, folder: Path, runtimes: bool
) -> tuple[dict[str, Call], dict[str, Callable[[], Call]], dict[str, int], dict[str, str]]:
    """Calls by contestant, what makes these anew, nodes by file, reasons of those that could not take part."""
    import torch
    from torch.utils import _pytree as pytree

    import tersor

    original = folder / "original.onnx"
    model, inputs = original_file(name, original)
    flat = [value for value in pytree.tree_leaves(inputs) if isinstance(value, torch.Tensor)]
    args, kwargs = (inputs, {}) if isinstance(inputs, tuple) else ((), inputs)
    calls: dict[str, Call] = {}
    makers: dict[str, Callable[[], Call]] = {}
    nodes: dict[str, int] = {}
    missing: dict[str, str] = {}

    def enter(label: str, make: Callable[[], Call]) -> None:
        try:
            call = make()
            call()
            calls[label], makers[label] = call, make
        except Exception as error:
            missing[label] = _first_line(error)

    def eager(model: Any) -> Callable[[], Any]:
        def call() -> Any:
            with torch.no_grad():
                return model(*args, **kwargs)

        return call

    def frozen() -> Callable[[], Any]:
        from tersor.backend import find_backend
        from tersor.capture import load as capture
        from tersor.target import detect

        compiled = find_backend("inductor").compile(capture(model, inputs), detect())
        return lambda: compiled(*flat)

    if model is not None:
        enter("torch eager", lambda: eager(model))
    if model is not None and not runtimes:
        enter("Inductor", lambda: eager(torch.compile(model)))
        enter("Inductor frozen", frozen)
    nodes["torch.onnx.export"] = _nodes(original)
    enter("ONNX Runtime", lambda: ort(original, flat))
    enter("OpenVINO", lambda: openvino(original, flat))
    for label, make in rewriters(original, folder).items():
        enter(f"{label} + ONNX Runtime", lambda make=make: ort(make(), flat))  # type: ignore[misc]
        made = folder / f"{label.lower()}.onnx"
        if made.exists():
            nodes[label] = _nodes(made)
    fast = tersor.optimize(str(original), backend="onnxruntime", progress=False, seconds=0)
    ours = fast.to_onnx(folder / "tersor.onnx")
    nodes["Tersor"] = _nodes(ours)
    enter("Tersor + ONNX Runtime", lambda: ort(ours, flat))
    enter("Tersor + OpenVINO", lambda: openvino(ours, flat))
    enter(AUTO, lambda: partial(tersor.optimize(str(original), tuple(flat), progress=False, seconds=1.0), *flat))
    return calls, makers, nodes, missing


def original_file(name: str, path: Path) -> tuple[Any, Any]:
    """The model, None where there is only a file, and inputs; the original's file is written to ``path``."""
    if name.startswith("real:ocr-"):
        import torch

        from tests.real import ocr

        part = name.removeprefix("real:ocr-")
        path.write_bytes(ocr.file(part).read_bytes())
        return None, tuple(map(torch.from_numpy, ocr.feeds(part)[0].values()))
    if name.startswith("real:"):
        from benchmarks.real_cases import CASES

        case = CASES[name]()
        return case.model, _exported(case, path)
    from tersor.models_zoo.catalog import load

    entry = load(name)
    return entry.model, _exported(entry, path)


def _exported(entry: Any, path: Path) -> Any:
    """Write the original's file; at batch 1, or with dynamic dimensions where torch.onnx.export needs them (T5)."""
    inputs = _first(entry.inputs)
    try:
        export(entry.model, inputs, path)
    except Exception:
        inputs = entry.inputs
        export(entry.model, inputs, path, entry.dynamic)
    return inputs


def _first(inputs: Any) -> Any:
    """One example of a batch."""
    import torch

    def one(value: Any) -> Any:
        return value[:1].contiguous() if isinstance(value, torch.Tensor) and value.dim() > 0 else value

    return tuple(map(one, inputs)) if isinstance(inputs, tuple) else {key: one(value) for key, value in inputs.items()}


def _first_line(error: Exception) -> str:
    root = error.__cause__ or error
    return f"{type(root).__name__}: {root}".splitlines()[0][:160]


def _nodes(path: Path) -> int:
    import onnx

    return len(onnx.load(path, load_external_data=False).graph.node)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--runtimes", action="store_true", help="leave out Inductor")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    from tersor import lower
    from tersor.measure import interleaved

    if options.runtimes:
        known = lower.backend_names()
        lower.backend_names = lambda: [name for name in known if name != "inductor"]
    rows, ratios, counts, problems = {}, {}, {}, []
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            try:
                calls, makers, counts[name], missing = contestants(name, Path(folder), options.runtimes)
            except Exception as error:
                problems.append(f"- {name}, all: torch.onnx.export gives no file: {_first_line(error)}")
                print(problems[-1], flush=True)
                continue
            rows[name] = {timing.name: timing for timing in interleaved(calls, seconds=options.seconds)}
            ratios[name] = same_runtime(calls, makers, options.seconds / 2)
        problems += [f"- {name}, {label}: {why}" for label, why in missing.items()]
        shown = {label: round(timing.median_ms, 2) for label, timing in rows[name].items()}
        print(name, shown, counts[name], missing, flush=True)
        print(runtime_table({name: ratios[name]}).splitlines()[-2], flush=True)
    text = "\n\n".join([table(rows), runtime_table(ratios), node_table(counts)])
    if problems:
        text += "\n\nCould not take part:\n\n" + "\n".join(problems)
    print(text)
    if options.write and options.runtimes:
        write("runtimes", "ONNX Runtime, OpenVINO, and what `auto` chooses among them", text, "peers.py --runtimes")
    elif options.write:
        write("peers", "Peers side by side on this CPU", text)
    return 0


def same_runtime(
    calls: dict[str, Call], makers: dict[str, Callable[[], Call]], seconds: float
) -> dict[str, list[float]]:
    """Our file against the original's in one runtime, the two alone: other libraries' threads spin on after a call.

    Several times, each time in sessions made anew: two of the same file differ by some percent for as long as they
    live, by where their memory and threads lie.
    """
    from tersor.measure import paired

    pairs = {name: (name, f"Tersor + {name}") for name in ("ONNX Runtime", "OpenVINO")}
    pairs[AUTO] = "ONNX Runtime", AUTO
    found: dict[str, list[float]] = {}
    for name, labels in pairs.items():
        if not all(label in calls for label in labels):
            continue
        found[name] = []
        for turn in range(SESSIONS):
            before, after = (makers[label]() if turn else calls[label] for label in labels)
            found[name].append(paired(before, after, seconds=seconds).median)
    return found


def runtime_table(ratios: dict[str, dict[str, list[float]]]) -> str:
    lines = [
        "Tersor's file against the original's in the same runtime, the two alone: median of the ratios of neighbouring "
        f"turns, of {SESSIONS} pairs of sessions the middle one, with the least and the most. Last, what `auto` chose, "
        "each time anew, against ONNX Runtime on the original.",
        "",
        "| model | ONNX Runtime | least to most | OpenVINO | least to most | auto | least to most |",
        "|---|---|---|---|---|---|---|",
    ]
    shown = ("ONNX Runtime", "OpenVINO", AUTO)
    for name, row in ratios.items():
        found = [row.get(pair) for pair in shown]
        cells = [
            f"{statistics.median(item):.3f} | {min(item):.3f}-{max(item):.3f}" if item else "- | -" for item in found
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    means = [_geometric([statistics.median(row[pair]) for row in ratios.values() if pair in row]) for pair in shown]
    lines.append(f"| geometric mean | {' | '.join(f'{mean:.3f} | ' for mean in means)} |")
    return "\n".join(lines)


def table(rows: dict[str, dict[str, Any]]) -> str:
    shown = [label for label in CONTESTANTS if any(label in row for row in rows.values())]
    lines = [
        "Latency of one run relative to ONNX Runtime on torch.onnx.export's file (smaller is faster); median of "
        "interleaved runs. The second column is that file's median in ms, with its quartiles.",
        "",
        "| model | ONNX Runtime, ms | " + " | ".join(label for label in shown if label != "ONNX Runtime") + " |",
        "|---" * (len(shown) + 1) + "|",
    ]
    ratios: dict[str, list[float]] = {label: [] for label in shown}
    for name, row in rows.items():
        base = row["ONNX Runtime"]
        cells = []
        for label in shown:
            if label in row:
                ratios[label].append(row[label].median_ms / base.median_ms)
            if label != "ONNX Runtime":
                cells.append(f"{ratios[label][-1]:.2f}" if label in row else "-")
        lines.append(f"| {name} | {base.median_ms:.2f} ({base.low_ms:.2f}-{base.high_ms:.2f}) | {' | '.join(cells)} |")
    means = [f"{_geometric(ratios[label]):.2f}" for label in shown if label != "ONNX Runtime"]
    lines.append(f"| geometric mean | | {' | '.join(means)} |")
    return "\n".join(lines)


def _geometric(values: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values)) if values else float("nan")


def node_table(counts: dict[str, dict[str, int]]) -> str:
    shown = ["torch.onnx.export", "onnxsim", "OnnxSlim", "onnxscript", "Tersor"]
    lines = ["ONNX nodes in the file:", "", "| model | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(str(row.get(label, '-')) for label in shown)} |" for name, row in counts.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
