"""torch.compile(model, backend="tersor") over the zoo and the hf: list, against eager outputs.

Run: python benchmarks/torch_compile.py [--family zoo|hf] [--only TEXT] [--rows FILE] [--write]
Rows are appended to ``--rows`` as they come, and models that stand there already are not run again, but for those whose
row is of a day before ``--before``.
``--write`` updates docs/results/torch_compile.md.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.pool import arguments, resume
from benchmarks.results import read_rows, write

TIMEOUT = 600

TOLERANCE = 1e-4
"""Of the largest value in an output."""


def examine(name: str) -> dict[str, Any]:
    """One model, compiled with static shapes, then called with another batch, which Dynamo makes dynamic."""
    import torch
    from torch.utils import _pytree as pytree

    from tersor.dynamo import TersorWarning
    from tersor.models_zoo.catalog import load

    torch._dynamo.reset()
    try:
        entry = load(name)
        calls = [entry.inputs, _larger(entry.inputs)] if entry.dynamic else [entry.inputs]
        fast = torch.compile(entry.model, backend="tersor")
        worst, said = 0.0, set()
        for inputs in calls:
            args, kwargs = (inputs, {}) if isinstance(inputs, tuple) else ((), dict(inputs))
            with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                wanted = pytree.tree_leaves(entry.model(*args, **kwargs))
                pairs = zip(wanted, pytree.tree_leaves(fast(*args, **kwargs)), strict=True)
                worst = max([worst, *(_difference(a, b) for a, b in pairs if isinstance(a, torch.Tensor))])
            said |= {str(item.message) for item in caught if issubclass(item.category, TersorWarning)}
    except Exception as error:
        return {"status": "crash", "why": f"{type(error).__name__}: {error}".splitlines()[0]}
    status = "equal" if worst <= TOLERANCE else "wrong"
    return {"status": f"{status}, the original ran" if said else status, "why": "; ".join(said), "difference": worst}


def _larger(inputs: Any) -> Any:
    """One more example in the batch."""
    import torch

    def more(value: Any) -> Any:
        return torch.cat([value, value[:1]]) if isinstance(value, torch.Tensor) and value.dim() > 0 else value

    return (
        tuple(map(more, inputs)) if isinstance(inputs, tuple) else {key: more(value) for key, value in inputs.items()}
    )


def _difference(wanted: Any, got: Any) -> float:
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return float("inf")
    scale = max(float(wanted.abs().max()), 1e-6) if wanted.numel() else 1.0
    return float((wanted.double() - got.double()).abs().max()) / scale if wanted.numel() else 0.0


def main() -> int:
    from tersor.models_zoo.catalog import names

    options = arguments(__doc__, ("zoo", "hf"), "torch_compile").parse_args()
    todo = [name for family in options.family or ("zoo", "hf") for name in names(family) if options.only in name]
    if not options.table:
        resume(
            todo, examine, options.rows, workers=options.workers, timeout=TIMEOUT, before=options.before,
            say=lambda row: str(row.get("difference", "")),
        )  # fmt: skip
    text = table({name: row for name, row in read_rows(options.rows).items() if name in todo})
    print(text)
    if options.write:
        write("torch_compile", 'torch.compile(model, backend="tersor")', text)
    return 0


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The table of results, and what it says in one sentence."""
    equal = sum(row["status"].startswith("equal") for row in rows.values())
    lines = [
        f"{equal} of {len(rows)} models equal to eager (largest difference below {TOLERANCE:g} of the output's scale), "
        f"{sum(row['status'] == 'equal' for row in rows.values())} of them without falling back to the original.",
        "",
        "| model | outcome | largest difference | seconds | run | why |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, row in sorted(rows.items()):
        shown = f"{row['difference']:.1e}" if "difference" in row else ""
        lines.append(
            f"| {name} | {row['status']} | {shown} | {row['seconds']:.0f} | {row['date']} | {row['why'][:160]} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
