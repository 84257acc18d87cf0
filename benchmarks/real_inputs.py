"""Real files through the command line: PP-OCRv4, MiniLM, EfficientNet-Lite0, and what torch's two exporters write.

Run: python benchmarks/real_inputs.py [--only TEXT] [--rows FILE] [--write]
Rows are appended to ``--rows`` as they come, and groups that stand there already are not run again.
``--write`` updates docs/results/real_inputs.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.pool import sweep
from benchmarks.results import write
from tests.real import command, compare, exported, lite0, minilm, ocr
from tests.real.text import lines, sentences

Row = dict[str, Any]
TIMEOUT = 1800
EQUAL = 1e-5
"""What embeddings and probabilities may differ by."""

GROUPS = (
    "ppocr",
    "minilm",
    "efficientnet-lite0",
    *(f"timm:{n}" for n in exported.TIMM),
    *(f"hf:{n}" for n in exported.HF),
)


def examine(group: str) -> Row:
    """All rows of one group; a row that fails does not stop the next."""
    with tempfile.TemporaryDirectory() as name:
        return {"rows": list(_rows(group, Path(name)))}


def _rows(group: str, folder: Path) -> Iterator[Row]:
    if group == "ppocr":
        yield from _ppocr(folder)
    elif group == "minilm":
        yield from _minilm(folder)
    elif group == "efficientnet-lite0":
        yield _row("EfficientNet-Lite0, ImageNet weights, 20 photographs", lambda: _lite0(folder))
    elif group.startswith("timm:"):
        for exporter in exported.EXPORTERS:
            yield _row(f"{group}, {exporter}", partial(_exported, group, exporter, folder))
    else:
        origin = "nn.Module and its file" if group[3:] in exported.NOT_EXPORTABLE else "torch.export, opset 20"
        yield _row(f"{group}, {origin}", lambda: _exported_or_module(group, folder))


def _row(what: str, made: Callable[[], Row]) -> Row:
    """One row; every failure becomes its reason."""
    started = time.perf_counter()
    try:
        row = {"result": "right", "reason": "", **made()}
    except Exception as error:
        row = {"result": "failed", "reason": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {"what": what, **row, "seconds": time.perf_counter() - started}


def _file(source: Path, output: Path, feeds: list[Any]) -> Row:
    """One ONNX file through the command line: interface kept, no more nodes, equal numbers."""
    done = command.optimize(source, output)
    row = _counted(compare.nodes(source), compare.nodes(done.path))
    row["difference"] = compare.largest_difference(source, done.path, feeds)
    faults = [
        done.verbatim,
        done.dropped,
        compare.interface_problem(source, done.path),
        "numbers differ" if row["difference"] > compare.TOLERANCE else "",
        "more nodes than the file" if row["after"] > row["before"] else "",
    ]
    return row | _judged(faults)


def _counted(before: int | None, after: int) -> Row:
    return {"before": before, "after": after}


def _judged(faults: list[str]) -> Row:
    found = [fault for fault in faults if fault]
    return {"result": "wrong" if found else "right", "reason": "; ".join(found)}


def _ppocr(folder: Path) -> Iterator[Row]:
    for part in ocr.FILES:
        yield _row(
            f"PP-OCRv4 {part}, two sizes",
            partial(_file, ocr.file(part), folder / f"{part}.onnx", ocr.feeds(part)),
        )
    yield _row("PP-OCRv4 whole pipeline, 24 lines on 3 pages", lambda: _pipeline(folder))


def _pipeline(folder: Path) -> Row:
    text = lines(24)
    pages = ocr.pages(text)
    (wanted, scores), (got, new_scores) = (
        ocr.read(pages),
        ocr.read(pages, **{p: folder / f"{p}.onnx" for p in ocr.FILES}),
    )
    row = _judged(["" if wanted == got else f"read {got}, the original {wanted}"])
    if not row["reason"]:
        row["difference"] = max(abs(a - b) for a, b in zip(scores, new_scores, strict=True))
        row["reason"] = f"same {len(got)} lines; {ocr.likeness(text, got):.1%} of the characters right"
    return row


def _minilm(folder: Path) -> Iterator[Row]:
    yield _row("all-MiniLM-L6-v2, nn.Module, 50 sentences", lambda: _minilm_module(folder))
    yield _row("all-MiniLM-L6-v2, that ONNX file, 50 sentences", lambda: _minilm_file(folder))


def _minilm_module(folder: Path) -> Row:
    import tersor

    model, encode = minilm.load()
    text = sentences()[:50]
    inputs = encode(text[:3])
    fast = tersor.optimize(model, inputs, dynamic=minilm.dynamic(), backend="onnxruntime", progress=False, seconds=0.0)
    fast.to_onnx(folder / "minilm.onnx")
    row = _counted(_reference(model, inputs, minilm.dynamic(), folder), compare.nodes(folder / "minilm.onnx"))
    wanted = minilm.embeddings(lambda given: model(**given).last_hidden_state, encode, text)
    got = minilm.embeddings(lambda given: fast(**given).last_hidden_state, encode, text)
    row["difference"] = float((wanted - got).abs().max())
    return row | _judged([_too_far(row), "" if row["after"] <= row["before"] else "more nodes than torch.onnx.export"])


def _minilm_file(folder: Path) -> Row:
    model, encode = minilm.load()
    text = sentences()[:50]
    source = folder / "minilm.onnx"
    row = _file(source, folder / "again.onnx", [{k: v.numpy() for k, v in encode(text[:5]).items()}])
    wanted = minilm.embeddings(lambda given: model(**given).last_hidden_state, encode, text)
    row["difference"] = float(
        (wanted - minilm.embeddings(minilm.of_file(folder / "again.onnx"), encode, text)).abs().max()
    )
    return row if row["reason"] else row | _judged([_too_far(row)])


def _too_far(row: Row) -> str:
    return f"more than {EQUAL} apart" if row["difference"] > EQUAL else ""


def _reference(model: Any, inputs: dict[str, Any], dynamic: Any, folder: Path) -> int:
    """Nodes of what torch.onnx.export writes for the same model."""
    from tersor.models_zoo import ZooEntry

    return compare.nodes(exported.write(ZooEntry("", model, inputs, dynamic), folder / "theirs.onnx"))


def _lite0(folder: Path) -> Row:
    import torch

    import tersor
    from tersor.models_zoo import ZooEntry

    model = lite0.load()
    images, labels = lite0.photographs()
    dynamic = ({0: torch.export.Dim("batch")},)
    source = exported.write(ZooEntry("", model, (images[:2],), dynamic), folder / "lite0.onnx")
    fast = tersor.optimize(model, (images[:2],), dynamic=dynamic, backend="onnxruntime", progress=False, seconds=0.0)
    again = _file(source, folder / "fast.onnx", [{compare.ports(source)[0][0][0]: images[:3].numpy()}])
    wanted = lite0.probabilities(model, images)
    [scores] = compare.session(folder / "fast.onnx").run(None, {compare.ports(source)[0][0][0]: images.numpy()})
    results = [lite0.probabilities(fast, images), torch.from_numpy(scores).softmax(-1)]
    again["difference"] = max(float((wanted - got).abs().max()) for got in results)
    changed = any(not torch.equal(wanted.argmax(-1), got.argmax(-1)) for got in results)
    row = again | _judged([again["reason"], "top-1 changed" if changed else "", _too_far(again)])
    right = int((results[1].argmax(-1) == labels).sum())
    return row if row["reason"] else row | {"reason": f"module and file; {right} of 20 classes right, as before"}


def _exported(name: str, exporter: str, folder: Path) -> Row:
    from tersor.models_zoo import load

    entry = load(name)
    source = exported.write(entry, folder / f"{exporter}.onnx", exporter)
    return _file(source, folder / f"fast {exporter}.onnx", exported.feeds(entry, source))


def _exported_or_module(name: str, folder: Path) -> Row:
    """The exporter's file; where torch.onnx.export cannot write one, the module itself."""
    from tersor.models_zoo import load

    entry = load(name)
    source = folder / "theirs.onnx"
    try:
        exported.write(entry, source)
    except Exception as error:
        row = _module(entry, folder)
        reason = f"torch.onnx.export cannot write it ({_cause(error)}): so optimize() wrote the file"
        return row | {"reason": "; ".join(part for part in (row["reason"], reason) if part)}
    return _file(source, folder / "ours.onnx", exported.feeds(entry, source))


def _cause(error: BaseException) -> str:
    """The first line of the error at the root."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]


def _module(entry: Any, folder: Path) -> Row:
    """The module's own ONNX file against eager PyTorch, and that file through the command line."""
    import tersor

    source = folder / "ours.onnx"
    fast = tersor.optimize(
        entry.model, entry.inputs, dynamic=entry.dynamic, backend="onnxruntime", progress=False, seconds=0.0
    )
    fast.to_onnx(source)
    feeds = exported.feeds(entry, source)
    eager = exported.against_eager(entry, source, feeds)
    row = _file(source, folder / "again.onnx", feeds)
    row["difference"] = max(row["difference"], eager)
    return row | _judged([row["reason"], "differs from eager PyTorch" if eager > compare.TOLERANCE else ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--rows", type=Path, default=Path("out/real_inputs.jsonl"))
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    todo = [group for group in GROUPS if options.only in group]
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    known = _read(options.rows)
    with options.rows.open("a", encoding="utf-8") as file:
        for group, result in sweep([g for g in todo if g not in known], examine, workers=1, timeout=TIMEOUT):
            crashed = {"what": group, "result": "crash", "reason": result.get("why", ""), "seconds": result["seconds"]}
            rows = result.get("rows", [crashed])
            file.write(json.dumps({"group": group, "rows": rows}) + "\n")
            file.flush()
            print("\n".join(_line(row) for row in rows), flush=True)
    known = _read(options.rows)
    text = summary([row for group in todo for row in known.get(group, [])])
    print(text)
    if options.write:
        write("real_inputs", "Real inputs, end to end", text)
    return 0


def _read(path: Path) -> dict[str, list[Row]]:
    if not path.exists():
        return {}
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return {item["group"]: item["rows"] for item in found}


def summary(rows: list[Row]) -> str:
    right = sum(row["result"] == "right" for row in rows)
    lines = [
        f"{right} of {len(rows)} right. Files: `tersor optimize IN -o OUT --backend onnxruntime --seconds 0`.",
        "Nodes leave out constants. Differences are to the original file in ONNX Runtime, as a share of the output's",
        "largest value; for embeddings, probabilities and OCR scores they are absolute, to the original model.",
        "Right: nothing kept verbatim, no pass dropped, same interface and dynamic axes, no more nodes, same answer.",
        "",
        "| what | result | ONNX nodes | largest difference | seconds | reason, remark |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_line, rows)])


def _line(row: Row) -> str:
    before = "" if row.get("before") is None else f"{row['before']} → "
    nodes = f"{before}{row['after']}" if "after" in row else ""
    gap = f"{row['difference']:.1e}" if "difference" in row else ""
    reason = " ".join(row["reason"].split())[:300].replace("|", "/")
    return f"| {row['what']} | {row['result']} | {nodes} | {gap} | {row['seconds']:.0f} | {reason} |"


if __name__ == "__main__":
    sys.exit(main())
