"""Which architectures TensorRT would take: its ONNX file passes onnx.checker, and lint finds nothing that it rejects.

Run: python benchmarks/tensorrt_lint.py [--family zoo|hf|timm|torchvision] [--only TEXT] [--most N] [--rows F] [--write]
Neither TensorRT nor a GPU is needed. Rows are appended to ``--rows`` as they come, and models that stand there already
are not run again. ``--write`` updates docs/results/tensorrt_lint.md.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.coverage import FAMILIES, _smaller, models
from benchmarks.pool import arguments, resume
from benchmarks.results import read_rows, table_rows, write

TARGET = "h100"
TIMEOUT = 900


def examine(name: str) -> dict[str, Any]:
    """One model as captured, in the form that TensorRT builds from."""
    from tersor import capture
    from tersor.backends._tensorrt_form import to_tensorrt_model
    from tersor.backends.tensorrt import BACKEND
    from tersor.errors import TersorError
    from tersor.export.write import check_model
    from tersor.models_zoo.catalog import load
    from tersor.target import named

    row: dict[str, Any] = {"status": "", "why": ""}
    try:
        entry = load(name, **_smaller(name))
        program = capture.load(entry.model, entry.inputs, entry.dynamic)
        model = to_tensorrt_model(program)
        check_model(model)
        findings = BACKEND.lint(program, named(TARGET))
        rejects = [finding for finding in findings if finding.fatal]
        row["nodes"], row["opset"] = len(list(model.graph)), model.graph.opset_imports[""]
        row["attention"] = Counter(node.op_type for node in model.graph)["Attention"]
        row["remarks"] = [f"{finding.problem}; {finding.remedy}" for finding in findings if not finding.fatal]
        row["status"] = "rejected" if rejects else "accepted"
        row["why"] = "; ".join(f"{finding.problem} ({finding.remedy})" for finding in rejects)
    except TersorError as error:
        row["status"], row["why"] = "failed", f"{type(error).__name__}: {error}"
    except Exception as error:
        row["status"], row["why"] = "crash", f"{type(error).__name__}: {error}".splitlines()[0]
    return row


def quick_first(names: list[str]) -> list[str]:
    """Those with few nodes first, by docs/results/coverage.md; what is not there comes last."""
    nodes: dict[str, int] = {}
    for cells in table_rows("coverage"):
        if len(cells) > 4 and cells[3].isdecimal():
            nodes[cells[1]] = int(cells[3])
    return sorted(names, key=lambda name: nodes.get(name, 10**9))


def main() -> int:
    parser = arguments(__doc__, FAMILIES, "tensorrt_lint", workers=1)
    parser.add_argument("--most", type=int, default=10**6, help="models of each family, those with few nodes first")
    options = parser.parse_args()
    families = {family: models(family) for family in options.family or FAMILIES}
    chosen = [quick_first([name for name in names if options.only in name]) for names in families.values()]
    todo = [name for names in chosen for name in names[: options.most]]
    if not options.table:
        resume(
            todo, examine, options.rows, workers=options.workers, timeout=TIMEOUT, before=options.before,
            say=lambda row: f"{row.get('nodes', '')} nodes",
        )  # fmt: skip
    rows = [row for name, row in read_rows(options.rows).items() if name in todo]
    text = summary(rows)
    print(text)
    if options.write:
        write("tensorrt_lint", "Architectures in the form that TensorRT builds from", text)
    return 0


def summary(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"Models as captured, without any pass, at random weights except the zoo's; target {TARGET}.",
        "Accepted: the file passes onnx.checker with shape inference, and lint finds nothing that TensorRT rejects.",
        "Nothing was built: the machine has no TensorRT.",
        "",
        "| family | looked at | accepted | rejected | not exported | with attention as one node |",
        "|---|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        own = [row for row in rows if row["model"].startswith(f"{family}:")]
        if own:
            lines.append(_family(family, own))
    remarks = Counter(_kind(text) for row in rows for text in row.get("remarks", ()))
    lines += ["", "| remark | models |", "|---|---|"]
    lines += [f"| {text} | {count} |" for text, count in remarks.most_common()]
    lines += ["", "| model | status | opset | nodes | attention nodes | why |", "|---|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda item: item["model"]):
        why = row["why"][:200].replace("|", "/")
        cells = (row.get("opset", ""), row.get("nodes", ""), row.get("attention", ""))
        lines.append(f"| {row['model']} | {row['status']} | {cells[0]} | {cells[1]} | {cells[2]} | {why} |")
    return "\n".join(lines)


def _family(family: str, own: list[dict[str, Any]]) -> str:
    counts = Counter(row["status"] for row in own)
    whole = sum(bool(row.get("attention")) for row in own)
    failed = counts["failed"] + counts["crash"]
    return f"| {family} | {len(own)} | {counts['accepted']} | {counts['rejected']} | {failed} | {whole} |"


def _kind(text: str) -> str:
    """A remark without the names and numbers of one model."""
    plain = text.split(";")[0].split(" (here")[0]
    if plain.startswith("dimension"):
        return "a dimension has no largest size"
    return "all layers multiply float32 numbers" if plain.startswith("all ") else plain


if __name__ == "__main__":
    sys.exit(main())
