"""Graphs of timm models for the cost model's benchmark: run on the meta device, where nothing is computed.

Run: python benchmarks/cost_graphs.py FOLDER [--models vit_base_patch16_224,...] [--most 400]
Writes one JSON file of launches per model into FOLDER, which is not part of the project.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import operator
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "timm_benchmarks"
BATCH = 2


class Recorder(TorchDispatchMode):
    """Writes every operator down as a node of a graph; what writes into a tensor gives it a new node."""

    def __init__(self, weights: dict[int, str]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.weights = weights
        self.nodes: dict[int, fx.Node] = {}
        self.writes = True
        self.kept: list[Any] = []
        """Tensors stay alive, so that no identity is given twice."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        return self.write(func, args, kwargs, result) if self.writes else result

    def write(self, func: Any, args: Any, kwargs: Any, result: Any) -> Any:
        """One call as a node, and one for each of several results."""
        node = self.graph.call_function(func, *tree_map(self.of, (args, kwargs)))
        node.meta["val"] = result
        outputs, _ = tree_flatten(result)
        self.kept += outputs
        if isinstance(result, list | tuple):
            for index, item in enumerate(result):
                if isinstance(item, torch.Tensor):
                    part = self.graph.call_function(operator.getitem, (node, index))
                    part.meta["val"] = item
                    self.nodes[id(item)] = part
        elif isinstance(result, torch.Tensor):
            self.nodes[id(result)] = node
        return result

    def of(self, value: Any) -> Any:
        """The node of a tensor; a weight or an input gets one when it is first met."""
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in self.nodes:
            name = self.weights.get(id(value))
            count = len(self.nodes)
            node = self.graph.create_node("get_attr", name) if name else self.graph.placeholder(f"input_{count}")
            node.meta["val"] = value
            self.nodes[id(value)] = node
            self.kept.append(value)
        return self.nodes[id(value)]


class Whole(TorchFunctionMode):
    """Keeps attention one node: the meta device would take it apart, a GPU does not."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        self.recorder.writes = False
        result = func(*args, **kwargs)
        self.recorder.writes = True
        return self.recorder.write(torch.ops.aten.scaled_dot_product_attention.default, args, kwargs, result)


def graph_of(name: str, size: int, batch: int = BATCH) -> fx.Graph:
    """The operators that a timm model runs at this image size."""
    from tersor.models_zoo import torchvision_ops

    torchvision_ops.ensure()
    import timm

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        model = timm.create_model(name, pretrained=False).eval()
    wanted = model.pretrained_cfg.get("input_size", (3, size, size))
    if model.pretrained_cfg.get("fixed_input_size") and wanted[-1] != size:
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False, img_size=size).eval()
    weights = {id(value): path for path, value in (*model.named_parameters(), *model.named_buffers())}
    image = torch.empty(batch, wanted[0], size, size, device="meta")
    recorder = Recorder(weights)
    with torch.no_grad(), torch.device("meta"), recorder, Whole(recorder):
        model(image)
    for node in reversed(recorder.graph.nodes):
        if node.target is operator.getitem and not node.users:
            recorder.graph.erase_node(node)
    return recorder.graph


def table(path: Path) -> dict[str, dict[str, float]]:
    """Rows of one of timm's tables by model."""
    with path.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    return {
        row["model"]: {key: float(value) for key, value in row.items() if key != "model" and value}
        for row in rows
        if row.get("infer_step_time")
    }


def write_one(name: str, size: int, folder: Path) -> str:
    """Write the launches of one model, fused and not; returns the reason where that failed."""
    from tersor.cost.launches import launches

    try:
        graph = graph_of(name, size)
        found = {
            f"{backend}-{precision}": [
                [getattr(item, field.name) for field in dataclasses.fields(item) if field.name != "nodes"]
                for item in launches(graph, backend, precision)
            ]
            for backend, precision in (("eager", "amp"), ("inductor", "amp"), ("inductor", "float32"))
        }
    except Exception as error:  # any model may refuse the meta device in its own way
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    (folder / f"{name}.json").write_text(json.dumps({"size": size, "batch": BATCH, **found}), encoding="utf-8")
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default="")
    parser.add_argument("--most", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=1e9)
    given = parser.parse_args()
    rows = table(DATA / "benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv")
    names = given.models.split(",") if given.models else spread(sorted(rows), given.most)
    given.folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    for name in names:
        if name not in rows or (given.folder / f"{name}.json").exists():
            continue
        if time.perf_counter() - start > given.seconds:
            break
        began = time.perf_counter()
        problem = write_one(name, int(rows[name]["infer_img_size"]), given.folder)
        print(f"{name}: {time.perf_counter() - began:.1f} s {problem}", flush=True)
    return 0


def spread(names: list[str], count: int) -> list[str]:
    """So many names, the halves, quarters and eighths of the list first, so that any beginning covers all families."""
    order = sorted(range(len(names)), key=lambda index: (index * 0.6180339887498949) % 1.0)
    return [names[index] for index in order[:count]]


if __name__ == "__main__":
    sys.exit(main())
