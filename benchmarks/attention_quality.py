"""Error and time of each substitution of attention against the number of tokens, and what would be chosen.

Run: python benchmarks/attention_quality.py --prepare, then --time (alone on the machine), then --write.
``--prepare`` writes ONNX files, errors and predictions to ``--folder``; ``--time`` runs them in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from benchmarks.results import write

LENGTHS = {"text": (256, 1024, 2048), "field": (256, 1024, 4096, 8192)}
HEADS, SHARED, WIDTH = 4, 2, 32
"""Those of zoo:tiny-lm, whose queries and keys are used."""
SECONDS = 0.35
"""Measured for each file at least, in turns."""
ERROR, GAIN = 0.02, 1.2
SINGLE = ("window", "sinks", "dilated", "blocks", "select", "proxies", "permute", "pooled", "landmarks", "sampled",
          "features", "distilled")  # fmt: skip


def calls_of(kind: str, length: int) -> tuple[Any, list[Any]]:
    """(site, calls) of one attention: "text" is the trained language model's, causal; "field" is made up."""
    from tersor.attention.site import Site

    if kind == "text":
        return Site(1, HEADS, SHARED, length, length, WIDTH, WIDTH, causal=True), _of_text(length)
    return Site(1, HEADS, HEADS, length, length, WIDTH, WIDTH), [_of_field(length, seed) for seed in range(2)]


def _of_text(length: int) -> list[Any]:
    """The second layer's operands on held-out prose."""
    from tersor.attention.site import collect
    from tersor.capture import load
    from tersor.models_zoo import data
    from tersor.pipeline import run
    from tersor.spec import parse

    if "program" not in _KEPT:
        _KEPT["program"] = run(load("zoo:tiny-lm"), parse("canonicalize")).program
    program = _KEPT["program"]
    prose = data.load("prose").test.inputs[0].flatten()
    inputs = [(prose[start : start + length][None],) for start in (0, length)]
    nodes = [node for node in program.nodes if "scaled_dot_product_attention" in str(node.target)]
    return next(iter(collect(program, [nodes[1]], inputs)))[1]


_KEPT: dict[str, Any] = {}


def _of_field(length: int, seed: int) -> tuple[Tensor, Tensor, Tensor, None]:
    """Tokens on a line: two heads look near, one at a few tokens that all look at, one at what is alike.

    Queries and keys are sines of the place at several wavelengths, directions of clusters, and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(length)[:, None] / length * 64
    angle = place * 0.5 ** torch.arange(WIDTH // 2)
    wave = torch.cat([angle.cos(), angle.sin()], -1)
    cluster = torch.randn(16, WIDTH, generator=generator)[torch.randint(0, 16, (length,), generator=generator)]
    heavy = torch.zeros(length, WIDTH)
    heavy[:: max(length // 16, 1), 0] = 4.0
    even = torch.zeros(length, WIDTH)
    even[:, 0] = 8.0
    noise = [0.2 * torch.randn(2, length, WIDTH, generator=generator) for _ in range(HEADS)]
    pairs = [(2.5 * wave, wave * 2), (1.5 * wave, wave * 2), (even, heavy), (cluster, cluster)]
    query, key = (
        torch.stack([pair[side] + drawn[side] for pair, drawn in zip(pairs, noise, strict=True)])[None]
        for side in (0, 1)
    )
    value = torch.randn(1, HEADS, length, WIDTH, generator=generator) * 0.5 + torch.stack([wave] * HEADS)[None]
    return query, key, value, None


def prepare(folder: Path, only: Sequence[int]) -> None:
    """Fit, judge, predict and export everything at every length; what is there already is not made again."""
    from tersor.attention.choose import Limits, Predictor, choose, losses
    from tersor.attention.form import Form, Mixed, dense_attention
    from tersor.attention.methods import described
    from tersor.attention.settings import ASKED, settings
    from tersor.target import detect

    folder.mkdir(parents=True, exist_ok=True)
    cases = sorted((length, kind) for kind, lengths in LENGTHS.items() for length in lengths)
    for length, kind in cases:
        rows = folder / f"{kind}_{length}.json"
        if not rows.exists() and (not only or length in only):
            site, calls = calls_of(kind, length)
            predictor = Predictor(detect(), "onnxruntime")
            full = [dense_attention(*call, causal=site.causal) for call in calls]
            dense = Form(dense_attention, {"causal": site.causal})
            found = [
                {"name": "dense", "lost": 0.0, "predicted": 1.0, "file": _export(dense, calls[0], folder, rows.stem)}
            ]
            methods = [settings(site, [name])[0] for name in SINGLE if settings(site, [name])]
            for method in methods:
                if method.objection(site) or (method.name == "distilled" and length > 2048):
                    continue
                form = method.form(site, calls[:1], 0)
                made = losses(full[1:], [form(*call) for call in calls[1:]])
                found.append(
                    {
                        "name": described(method),
                        "lost": float(made.median()),
                        "least": float(made.min()),
                        "most": float(made.max()),
                        "predicted": predictor.dense(site) / predictor.method(site, method),
                        "file": _export(form, calls[0], folder, f"{rows.stem}_{len(found)}"),
                    }
                )  # fmt: skip
            chosen = choose(
                site, calls, [item for item in methods if item.name not in ASKED], Limits(ERROR, GAIN), predictor
            )  # fmt: skip
            text = chosen if isinstance(chosen, str) else chosen.text
            entry: dict[str, Any] = {"name": "chosen", "text": text, "lost": 0.0, "predicted": 1.0}
            if not isinstance(chosen, str):
                entry |= {"lost": chosen.lost, "predicted": chosen.before / chosen.after}
                entry["file"] = _export(Mixed(chosen.parts), calls[0], folder, f"{rows.stem}_chosen")
            rows.write_text(json.dumps([*found, entry]), encoding="utf-8")
            print(rows.stem, len(found), text, flush=True)


def _export(form: Any, call: Any, folder: Path, name: str) -> str:
    from tersor.attention.form import Form, Mixed
    from tersor.capture.torch import capture_module
    from tersor.context import Context
    from tersor.export import save_onnx
    from tersor.refresh import refresh
    from tersor.spec import parse

    module = Mixed([(range(call[0].shape[1]), form)]) if isinstance(form, Form) else form
    program = refresh(capture_module(module.eval(), tuple(call[:3])))
    for item in parse("fold-constants,canonicalize,common-subexpressions,remove-noops,dead-code"):
        item(program, Context())
    return save_onnx(refresh(program), folder / f"{name}.onnx").name


def measure(folder: Path) -> None:
    """Least milliseconds of every file, all files of one length in turns: others may use the machine, too."""
    for rows in sorted(folder.glob("*_*.json"), key=lambda path: int(path.stem.split("_")[1])):
        found = json.loads(rows.read_text(encoding="utf-8"))
        runs = {place: _runner(folder / entry["file"]) for place, entry in enumerate(found) if "file" in entry}
        spent: dict[int, list[float]] = {place: [] for place in runs}
        for run in runs.values():
            run()
        started = time.perf_counter()
        while time.perf_counter() - started < SECONDS * len(runs) or len(spent[0]) < 3:
            for place, run in runs.items():
                begin = time.perf_counter()
                run()
                spent[place].append(1e3 * (time.perf_counter() - begin))
        for place, times in spent.items():
            found[place]["ms"] = min(times)
        rows.write_text(json.dumps(found), encoding="utf-8")
        print(rows.stem, f"{found[0]['ms']:.2f} ms dense", flush=True)


def _runner(path: Path) -> Callable[[], Any]:
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(path, options)
    generator = numpy.random.default_rng(0)
    feeds = {item.name: generator.standard_normal(item.shape, numpy.float32) for item in session.get_inputs()}
    return lambda: session.run(None, feeds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/attention_quality"))
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--lengths", type=int, nargs="*", default=())
    options = parser.parse_args()
    if options.prepare:
        prepare(options.folder, options.lengths)
    if options.time:
        measure(options.folder)
    text = summary(options.folder)
    print(text)
    if options.write:
        write("attention_quality", "Attention substituted", text)
    return 0


def summary(folder: Path) -> str:
    """One table for each kind of operands, then what would be chosen."""
    lines: list[str] = []
    for kind, title in _TITLES.items():
        known = {int(path.stem.split("_")[1]): json.loads(path.read_text()) for path in folder.glob(f"{kind}_*.json")}
        if known:
            lines += ["", f"## {title}", "", *_table(dict(sorted(known.items())))]
    return "\n".join([_HEAD, *lines])


_HEAD = f"""One attention of {HEADS} heads of width {WIDTH}, batch 1, float32, in ONNX Runtime with two threads. Each
cell: share of the output's energy that is lost (median of the heads, on other inputs than those fitted on); times as
fast as the attention itself, the least of many turns (predicted). A question mark: not measured, or not alone on the
machine. Settings follow the length. Last: what substitute-attention chooses with error={ERROR:g} and
gain={GAIN:g}."""

_TITLES = {
    "text": "zoo:tiny-lm, second layer, on prose; causal, two heads share keys; trained on 128 bytes",
    "field": "made up: two local heads, one that looks at 16 tokens, one at clusters; not causal",
}


def _table(known: dict[int, list[dict[str, Any]]]) -> list[str]:
    names = list(dict.fromkeys(_plain(entry["name"]) for found in known.values() for entry in found))
    lines = [f"| method | {' | '.join(map(str, known))} |", f"|{'---|' * (1 + len(known))}"]
    dense = [f"{found[0]['ms']:.2f} ms" if "ms" in found[0] else "-" for found in known.values()]
    lines.append(f"| attention itself | {' | '.join(dense)} |")
    for name in names[1:]:
        cells = [_cell(found, name) for found in known.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append("")
    for length, found in known.items():
        lines.append(f"- {length}: {found[-1]['text']}")
    if not any("ms" in found[0] for found in known.values()):
        return lines
    pays = {name: next((length for length, found in known.items() if _faster(found, name)), None) for name in names[1:]}
    told = ", ".join(f"{name} {length or 'never'}" for name, length in pays.items())
    return [*lines, "", f"Measured faster from this many tokens on: {told}."]


def _plain(name: str) -> str:
    """The kind of a method, without the numbers that follow the length."""
    head, _, rest = name.partition("{")
    marks = [mark for mark in ("sinks", "dilation", "proxies") if mark in rest]
    return " ".join([head, *marks])


def _entry(found: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    return next((entry for entry in found if _plain(entry["name"]) == name), None)


def _cell(found: list[dict[str, Any]], name: str) -> str:
    entry = _entry(found, name)
    if entry is None or "file" not in entry:
        return "-"
    speed = f"{found[0]['ms'] / entry['ms']:.2f}" if "ms" in entry else "?"
    return f"{entry['lost']:.2g}; {speed} ({entry['predicted']:.2f})"


def _faster(found: list[dict[str, Any]], name: str) -> bool:
    entry = _entry(found, name)
    return entry is not None and "ms" in entry and entry["ms"] < found[0]["ms"]


if __name__ == "__main__":
    sys.exit(main())
