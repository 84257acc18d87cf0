"""How long each layer of an engine takes, for the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

from tersor.backends._tensorrt_api import EngineInspector, IExecutionContext, Trt
from tersor.backends._tensorrt_engine import Engine
from tersor.report.model import LayerTime

RUNS = 20


def layer_times(engine: Engine, inputs: Sequence[torch.Tensor], runs: int = RUNS) -> list[LayerTime]:
    """Mean milliseconds of each layer in execution order, over some runs; layers run one by one meanwhile."""
    values = engine.placed(inputs)
    context: IExecutionContext = engine.new_context(engine.profile(values))
    engine.run(context, values)  # the first run allocates
    profiler = _profiler(engine.trt)
    context.profiler = profiler
    for _ in range(runs):
        engine.run(context, values)
        engine.device.wait()
    kinds = layer_kinds(engine, context)
    return [LayerTime(name, kinds.get(name, ""), total / runs) for name, total in profiler.totals.items()]


def _profiler(trt: Trt) -> Any:
    class Totals(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.totals: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.totals[layer_name] = self.totals.get(layer_name, 0.0) + ms

    return Totals()


def layer_kinds(engine: Engine, context: IExecutionContext) -> dict[str, str]:
    """What each layer is and computes in, by name, as far as the engine tells."""
    inspector: EngineInspector = engine.engine.create_engine_inspector()
    inspector.execution_context = context
    text = inspector.get_engine_information(engine.trt.LayerInformationFormat.JSON)
    try:
        entries = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {entry["Name"]: _kind(entry) for entry in entries if isinstance(entry, dict) and "Name" in entry}


def _kind(entry: dict[str, Any]) -> str:
    """Type of the layer and of its first output; TensorRT 10 writes format and type in one text, 11 apart."""
    outputs = entry.get("Outputs") or [{}]
    first = outputs[0] if isinstance(outputs[0], dict) else {}
    dtype = first.get("DataType") or first.get("Format/Datatype") or ""
    return " ".join(filter(None, (str(entry.get("LayerType", "")), str(dtype))))
