"""Accuracy against FLOPs for pruning without labels: our criteria and repairs beside Torch-Pruning's, trained models.

Run: python benchmarks/prune_quality.py [--models zoo:digits-cnn,real:lite0,...] [--shares 0.3,0.5] [--distill 300]
[--rows FILE] [--table] [--write]. Rows are appended to ``--rows`` as they come; the table is made of all rows there.
Each contestant removes the same share of the FLOPs. Calibration inputs are unlabelled training examples; losses that
Torch-Pruning differentiates are the cross-entropy to the original's own predictions. No retraining with labels.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import write

MODELS = "zoo:digits-cnn,zoo:digits-mobile,zoo:mnist-cnn,zoo:digits-vit,zoo:text-encoder,real:lite0,real:minilm"
CRITERIA = ("magnitude", "activation", "taylor2", "surgeon")
BATCHES = 16
EXACT = "fold-constants,canonicalize,fold-batch-norm,remove-noops,dead-code"

Row = dict[str, Any]


def _arguments(batch: Any) -> tuple[Any, dict[str, Any]]:
    return ((), batch) if isinstance(batch, dict) else (batch, {})


class Ours:
    """One captured model, pruned in several ways."""

    def __init__(self, entry: Any, data: list[Any]) -> None:
        from tersor.capture import load
        from tersor.pipeline import Reference, run
        from tersor.spec import parse

        program = load(entry.model, entry.inputs, entry.dynamic)
        self.program = run(program, parse(EXACT), Reference.of(program)).program
        self.entry, self.data = entry, data
        self.calibration = tuple(program.interface.flatten(*_arguments(item)) for item in data)

    def pruned(self, criterion: str, share: float, allocation: str, method: str, seconds: float) -> Row:
        """Prune, repair, measure."""
        from tersor.context import Context
        from tersor.cost.flops import program_flops
        from tersor.passes.prune import Prune
        from tersor.progress import Silent
        from tersor.repair import repairer

        started = time.perf_counter()
        context = Context(calibration=self.calibration)
        candidate = self.program.clone()
        Prune(ratio=share, of="flops", criterion=criterion, allocation=allocation)(candidate, context)  # type: ignore[arg-type]
        repair = repairer(method, Silent(), 0, seconds)
        if repair is not None:
            candidate, _ = repair(self.program, candidate, context)
        return {
            "accuracy": self.entry.evaluator(candidate),
            "flops": program_flops(candidate).products / program_flops(self.program).products,
            "parameters": candidate.parameter_bytes() / self.program.parameter_bytes(),
            "seconds": time.perf_counter() - started,
        }


def theirs(entry: Any, data: list[Any], importance: str, share: float) -> Row:
    """Torch-Pruning with the ratio that removes the wanted share of FLOPs, found by bisection."""
    started = time.perf_counter()
    low, high, best = 0.0, 0.95, None
    whole = _flops(entry.model, entry.inputs)
    for _ in range(7):
        ratio = (low + high) / 2
        model = _torch_pruned(entry, data, importance, ratio)
        left = _flops(model, entry.inputs) / whole
        if left <= 1 - share:
            best, high = (model, left), ratio
        else:
            low = ratio
    if best is None:
        raise ValueError(f"cannot remove {share:.0%} of the FLOPs")
    kept = sum(p.numel() for p in best[0].parameters()) / sum(p.numel() for p in entry.model.parameters())
    took = time.perf_counter() - started
    return {"accuracy": entry.evaluator(best[0]), "flops": best[1], "parameters": kept, "seconds": took}


def _flops(model: Any, inputs: Any) -> float:
    """Counted on the captured graph, as ours are."""
    from tersor.capture import load
    from tersor.cost.flops import program_flops

    return float(program_flops(load(model.eval(), inputs)).products)


def _torch_pruned(entry: Any, data: list[Any], importance: str, ratio: float) -> Any:
    import torch
    import torch_pruning as tp

    model = copy.deepcopy(entry.model)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    wanted = {
        "magnitude": tp.importance.GroupMagnitudeImportance,
        "taylor": tp.importance.GroupTaylorImportance,
        "hessian": tp.importance.GroupHessianImportance,
    }[importance]()
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1:]
    twins = dict(zip(entry.model.modules(), model.modules(), strict=True))
    heads = {twins[part]: count for part, count in getattr(entry, "heads", {}).items()}
    pruner = tp.pruner.BasePruner(
        model, entry.inputs, importance=wanted, pruning_ratio=ratio, global_pruning=True,
        ignored_layers=[] if heads else last, num_heads=heads, output_transform=_tensor,
    )  # fmt: skip
    if importance != "magnitude":
        _gradients(model, wanted, data, per_example=importance == "hessian")
    pruner.step()
    for module in model.modules():  # what Torch-Pruning's own BERT example does by hand
        if getattr(module, "query", None) in heads:
            module.all_head_size = module.query.out_features
            module.attention_head_size = module.all_head_size // module.num_attention_heads
    return model.eval()


def _call(model: Any, batch: Any) -> Any:
    args, kwargs = _arguments(batch)
    return _tensor(model(*args, **kwargs))


def _tensor(output: Any) -> Any:
    return output.last_hidden_state if hasattr(output, "last_hidden_state") else output


def _gradients(model: Any, importance: Any, data: list[Any], *, per_example: bool) -> None:
    """What Torch-Pruning's README does, with the model's own predictions as labels; embeddings by their energy."""
    import torch

    model.zero_grad()
    for batch in data[:4]:
        made = _call(model, batch)
        if made.dim() == 2:
            loss = torch.nn.functional.cross_entropy(made, made.argmax(-1), reduction="none")
        else:
            loss = made.square().sum((1, 2)) / 2
        if not per_example:
            loss.mean().backward()
            continue
        for item in loss:
            model.zero_grad()
            item.backward(retain_graph=True)
            importance.accumulate_grad(model)


def study(name: str, shares: list[float], distill: float, allocations: list[str]) -> Iterator[Row]:
    """All contestants on one model, one row each."""
    from benchmarks.real_cases import CASES
    from tersor.models_zoo.catalog import load

    entry: Any = CASES[name]() if name in CASES else load(name)
    data = list(entry.calibration if name in CASES else replace(entry.calibration, count=BATCHES))
    ours = Ours(entry, data)
    original = entry.evaluator(entry.model)
    for share in shares:
        for tool, make in contestants(ours, share, distill, allocations):
            try:
                row = make()
            except Exception as error:
                row = {"why": f"{type(error).__name__}: {error}".splitlines()[0][:120]}
            yield {"model": name, "original": original, "tool": tool, "share": share, **row}


def contestants(
    ours: Ours, share: float, distill: float, allocations: list[str]
) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Torch-Pruning's three criteria, ours with and without repair, and one distilled."""
    for importance in ("magnitude", "taylor", "hessian"):
        yield f"Torch-Pruning {importance}", partial(theirs, ours.entry, ours.data, importance, share)
    for criterion in CRITERIA:
        for allocation in allocations:
            for method in ("none", "least-squares"):
                label = f"Tersor {criterion}, {allocation}, {method}"
                yield label, partial(ours.pruned, criterion, share, allocation, method, 60.0)
    if distill > 0:
        label = f"Tersor surgeon, {allocations[0]}, distilled for {distill:.0f} s"
        yield label, partial(ours.pruned, "surgeon", share, allocations[0], "distill", distill)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--shares", default="0.3,0.5,0.7")
    parser.add_argument("--allocations", default="global,greedy")
    parser.add_argument("--distill", type=float, default=0.0, help="seconds of distillation for one contestant")
    parser.add_argument("--rows", type=Path, default=Path("out/prune_quality.jsonl"))
    parser.add_argument("--table", action="store_true", help="run nothing, only print the table of the rows there are")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    shares = [float(share) for share in options.shares.split(",")]
    with options.rows.open("a", encoding="utf-8") as file:
        for name in [] if options.table else options.models.split(","):
            for row in study(name, shares, options.distill, options.allocations.split(",")):
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(row, flush=True)
    rows = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()]
    text = summary(rows)
    print(text)
    if options.write:
        write("prune_quality", "Accuracy after pruning without labels", text)
    return 0


def summary(rows: list[Row]) -> str:
    lines = [
        "Accuracy on held-out data after removing a share of the FLOPs, with no labels and no retraining; *loss ratio* "
        "is our loss against that of the best Torch-Pruning contestant at the same share.",
        "",
        "| model | share | contestant | accuracy | loss | loss ratio | FLOPs kept | parameters kept | seconds | why |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "accuracy" not in row:
            lines.append(
                f"| {row['model']} | {row['share']:.0%} | {row['tool']} |||||||{row['why'].replace('|', '/')} |"
            )
            continue
        rivals = [r for r in rows if r["model"] == row["model"] and r["share"] == row["share"] and "accuracy" in r]
        best = max((r["accuracy"] for r in rivals if r["tool"].startswith("Torch")), default=None)
        loss = row["original"] - row["accuracy"]
        ratio = f"{loss / (row['original'] - best):.2f}" if best is not None and best < row["original"] else ""
        lines.append(
            f"| {row['model']} ({row['original']:.3f}) | {row['share']:.0%} | {row['tool']} | {row['accuracy']:.3f} "
            f"| {loss:.3f} | {ratio} | {row['flops']:.0%} | {row['parameters']:.0%} | {row['seconds']:.0f} | |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
