"""ONNX backend suite: import -> exact passes -> export, compared with ONNX Runtime on the original file.

Run: python benchmarks/onnx_conformance.py [--limit N] [--only TEXT] [--rows FILE] [--write]
Rows are appended to ``--rows`` as they come, and cases that stand there already are not run again: remove the file
after a change of importer, passes or exporter. ``--write`` updates docs/results/onnx_conformance.md.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.pool import resume
from benchmarks.results import read_rows, write

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
TIMEOUT = 120


@functools.cache
def suite() -> dict[str, Any]:
    """Every case of the suite by kind and name."""
    from onnx.backend.test.loader import load_model_tests

    warnings.simplefilter("ignore", RuntimeWarning)
    return {f"{kind}/{case.name}": case for kind in KINDS for case in load_model_tests(kind=kind)}


def materialized(case: Any, folder: Path) -> tuple[Path, onnx.ModelProto, dict[str, Any]]:
    """The case's file, its model and its inputs; models that live in memory are written to ``folder`` first."""
    if case.model_dir is not None:
        model = onnx.load(Path(case.model_dir) / "model.onnx")
        return Path(case.model_dir) / "model.onnx", model, read_inputs(Path(case.model_dir), model)
    path = folder / "original.onnx"
    onnx.save(case.model, path)
    values = case.data_sets[0][0]
    return path, case.model, {item.name: value for item, value in zip(case.model.graph.input, values, strict=False)}


def read_inputs(folder: Path, model: onnx.ModelProto) -> dict[str, Any]:
    """The first data set of a case: arrays, lists (sequences) or None (optional) by input name."""
    values = {}
    for position, item in enumerate(model.graph.input):
        path = folder / "test_data_set_0" / f"input_{position}.pb"
        if path.exists():
            values[item.name] = _value(path.read_bytes(), item.type)
    return values


def _value(data: bytes, kind: onnx.TypeProto) -> Any:
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))


def run_file(path: Path, inputs: dict[str, Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Outputs of a file in ONNX Runtime without its own optimizations, and its interface."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ports = [
        [(item.name, item.type, item.shape) for item in side] for side in (session.get_inputs(), session.get_outputs())
    ]
    return session.run(None, inputs), ports[0], ports[1]


def same(wanted: Any, got: Any) -> bool:
    """Equal types, shapes and values, to the suite's own default tolerance."""
    if isinstance(wanted, list):
        return isinstance(got, list) and len(wanted) == len(got) and all(map(same, wanted, got))
    if wanted is None or got is None:
        return wanted is got
    a, b = np.asarray(wanted), np.asarray(got)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind in "OUSb":
        return bool((a == b).all())
    return bool(np.allclose(a.astype(np.complex128), b.astype(np.complex128), rtol=1e-3, atol=1e-6, equal_nan=True))


def examine(name: str) -> dict[str, Any]:
    """What became of one case: a status, and why."""
    folder = Path(tempfile.mkdtemp())
    try:
        return _examine(suite()[name], folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _examine(case: Any, folder: Path) -> dict[str, Any]:
    source, _, inputs = materialized(case, folder)
    runs, problem, wanted, ins, outs = True, "", [], [], []
    try:
        wanted, ins, outs = run_file(source, inputs)
    except Exception as error:
        runs, problem = False, str(error).splitlines()[0]
    result = {**rewrite(source, inputs if runs else {}, folder / "rewritten.onnx"), "runs": runs}
    if not runs:
        result["status"] = "crash" if result["status"] == "crash" else "not run by ONNX Runtime"
        result["why"] = result["why"] or problem
        return result
    return compare(result, inputs, wanted, ins, outs)


def rewrite(source: Path, inputs: dict[str, Any], out: Path) -> dict[str, Any]:
    """Optimize a file and write the result; ``path`` is None where that raised."""
    import torch

    import tersor
    from tersor.errors import TersorError

    tensors = None
    if inputs and all(
        isinstance(v, np.ndarray) and v.dtype.kind in "fiub" and v.dtype.isbuiltin == 1 for v in inputs.values()
    ):
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}
    row: dict[str, Any] = {"path": None, "status": "", "why": "", "opaque": 0}
    try:
        fast = tersor.optimize(source, tensors, backend="onnxruntime", progress=False, seconds=0.0)
        fast.to_onnx(out)
        row["path"] = str(out)
        if fast.program is None:
            row["status"], row["why"] = "kept as it is", fast.report.notes[-1]
        else:
            row["opaque"] = len(fast.program.opaque)
            unchanged = [note for note in fast.report.notes if note.startswith("the file written is the original")]
            row["status"], row["why"] = ("kept as it is", unchanged[0]) if unchanged else ("", "")
    except TersorError as error:
        row["status"], row["why"] = "refused", f"{type(error).__name__}: {error}"
    except Exception as error:
        row["status"], row["why"] = "crash", f"{type(error).__name__}: {error}".splitlines()[0]
    return row


def compare(
    row: dict[str, Any], inputs: dict[str, Any], wanted: list[Any], ins: list[Any], outs: list[Any]
) -> dict[str, Any]:
    if row["path"] is None:
        return row
    try:
        got, new_ins, new_outs = run_file(Path(row["path"]), inputs)
    except Exception as error:
        return {**row, "status": "wrong", "why": f"the result does not run: {error}".splitlines()[0]}
    if [name for name, *_ in new_ins + new_outs] != [name for name, *_ in ins + outs]:
        return {**row, "status": "wrong", "why": "names differ"}
    if [kind for _, kind, _ in new_ins + new_outs] != [kind for _, kind, _ in ins + outs]:
        return {**row, "status": "wrong", "why": "types differ"}
    if [shape for *_, shape in new_ins] != [shape for *_, shape in ins]:
        return {**row, "status": "wrong", "why": f"input shapes differ: {new_ins} {ins}"}
    if not same(wanted, got):
        return {**row, "status": "wrong", "why": "values differ"}
    return {
        **row,
        "status": row["status"] or ("equal, with opaque nodes" if row["opaque"] else "equal, all nodes in torch"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="only every so many cases")
    parser.add_argument("--only", default="")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--rows", type=Path, default=Path("out/onnx_conformance.jsonl"), help="rows so far")
    options = parser.parse_args()
    todo = [name for name in suite() if options.only in name][:: options.every][: options.limit or None]
    resume(todo, examine, options.rows, workers=options.workers, timeout=TIMEOUT, say=lambda row: "")
    rows = [{"runs": True, "case": name, **row} for name, row in read_rows(options.rows).items() if name in set(todo)]
    text = summary(rows)
    print(text)
    if options.write:
        write("onnx_conformance", "ONNX backend suite", text)
    return 0


def summary(rows: list[dict[str, Any]]) -> str:
    ran = [row for row in rows if row["runs"]]
    good = [row for row in ran if row["status"].startswith("equal") or row["status"] == "kept as it is"]
    lines = [
        f"{len(rows)} cases; ONNX Runtime's CPU provider runs {len(ran)} of the original files.",
        f"Equal values, types, shapes and interface after import, exact passes and export: {len(good)} of {len(ran)}.",
        f"Uncaught exceptions: {sum(row['status'] == 'crash' for row in rows)} of {len(rows)}.",
        "",
        "| outcome | cases |",
        "|---|---|",
    ]
    lines += [f"| {status} | {count} |" for status, count in Counter(row["status"] for row in rows).most_common()]
    wrong = [row for row in ran if row not in good]
    if wrong:
        lines += ["", "| case | outcome | why |", "|---|---|---|"]
        lines += [f"| {row['case']} | {row['status']} | {row['why'][:160]} |" for row in wrong]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
