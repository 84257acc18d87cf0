"""Contestants of the quantization benchmark: each makes its eight-bit version of a task's model, as its users would."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.quantize_cases import Run, Task, arrays, onnxruntime_run, openvino_run

Tool: TypeAlias = Callable[[Task, Path], "Path | Run"]
"""Writes a file to the path given, whose suffix it may change, or gives a callable."""

RECIPES = {
    "Tersor": "quantize",
    "Tersor, smoothed": "smooth{insert=true},quantize",
}
"""What our one call is given behind the exact passes; the same for every model."""


def runner(made: Path | Run, runtime: str = "", threads: int = 1) -> Run:
    """A callable for a file, in OpenVINO where it is OpenVINO's own or that is asked for."""
    if not isinstance(made, Path):
        return made
    if runtime == "OpenVINO" or made.suffix == ".xml":
        return openvino_run(made, threads)
    return onnxruntime_run(made, threads)


def _names(file: Path) -> list[str]:
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    constants = {item.name for item in graph.initializer}
    return [item.name for item in graph.input if item.name not in constants]


def _feeds(task: Task) -> list[dict[str, np.ndarray]]:
    names = _names(task.file)
    return [dict(zip(names, arrays(batch), strict=True)) for batch in task.calibration]


class _Reader:
    """Calibration data as ONNX Runtime reads it."""

    def __init__(self, task: Task) -> None:
        self.feeds: Iterator[dict[str, np.ndarray]] = iter(_feeds(task))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def ort_static(task: Task, path: Path, *, prepare: bool = False, **options: Any) -> Path:
    """`quantize_static`; with ``prepare`` behind an upgrade to opset 17 and ONNX Runtime's own preparation."""
    from onnxruntime.quantization import quantize_static

    file = _prepared(task.file, path.with_suffix(".prepared.onnx")) if prepare else task.file
    quantize_static(str(file), str(path), _Reader(task), **options)
    return path


def _prepared(file: Path, path: Path) -> Path:
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(file)
    if model.opset_import[0].version < 17:
        model = onnx.version_converter.convert_version(model, 17)
    onnx.save(model, path)
    try:
        quant_pre_process(str(path), str(path))
    except Exception:  # its symbolic shape inference gives up on some graphs and names this remedy
        quant_pre_process(str(path), str(path), skip_symbolic_shape=True)
    return path


def ort_dynamic(task: Task, path: Path, *, prepare: bool = False) -> Path:
    """`quantize_dynamic` at its defaults; with ``prepare`` as `ort_static`."""
    from onnxruntime.quantization import quantize_dynamic

    file = _prepared(task.file, path.with_suffix(".prepared.onnx")) if prepare else task.file
    quantize_dynamic(str(file), str(path))
    return path


def nncf_openvino(task: Task, path: Path, **options: Any) -> Path:
    """NNCF on OpenVINO's graph."""
    import nncf
    import openvino as ov

    data = nncf.Dataset(_feeds(task))
    made = nncf.quantize(ov.Core().read_model(str(task.file)), data, **_told(task), **options)
    path = path.with_suffix(".xml")
    ov.save_model(made, str(path), compress_to_fp16=False)
    return path


def nncf_onnx(task: Task, path: Path) -> Path:
    """NNCF on the ONNX file."""
    import nncf
    import onnx

    made = nncf.quantize(onnx.load(task.file), nncf.Dataset(_feeds(task)), **_told(task))
    onnx.save(made, path)
    return path


def nncf_weights(task: Task, path: Path, **options: Any) -> Path:
    """NNCF's four-bit weights in groups of 32, as OpenVINO reads them."""
    import nncf
    import openvino as ov

    made = nncf.compress_weights(
        ov.Core().read_model(str(task.file)), mode=nncf.CompressWeightsMode.INT4_SYM, group_size=32, ratio=1.0,
        all_layers=True, dataset=nncf.Dataset(_feeds(task)) if options else None, **options,
    )  # fmt: skip
    path = path.with_suffix(".xml")
    ov.save_model(made, str(path), compress_to_fp16=False)
    return path


def _told(task: Task) -> dict[str, Any]:
    import nncf

    given: dict[str, Any] = {"subset_size": len(task.calibration)}
    return given | ({"model_type": nncf.ModelType.TRANSFORMER} if task.transformer else {})


def modelopt(task: Task, path: Path) -> Path:
    """NVIDIA ModelOpt's ONNX quantization; all calibration inputs in one batch, as it takes them."""
    from modelopt.onnx.quantization import quantize

    feeds = _feeds(task)
    data = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
    quantize(
        str(task.file), quantize_mode="int8", calibration_data=data, calibration_eps=["cpu"], output_path=str(path)
    )
    return path


def torchao(task: Task, path: Path) -> Run:
    """torchao's int8 linear layers with activations quantized at run time, in eager PyTorch."""
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    if isinstance(task.model, str):
        raise ValueError("takes PyTorch modules, and this is an ONNX file")
    model = copy.deepcopy(task.model)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    named = isinstance(task.inputs, dict)

    def run(*given: np.ndarray) -> list[np.ndarray]:
        tensors = [torch.from_numpy(item) for item in given]
        with torch.no_grad():
            made = model(**dict(zip(task.inputs, tensors, strict=True))) if named else model(*tensors)
        return [(made if isinstance(made, torch.Tensor) else made[0]).numpy()]

    return run


def ours(task: Task, path: Path, *, recipe: str) -> Path:
    """One call with no choices; the whole loss is allowed, so that what the passes do is what is judged."""
    import tersor
    from tersor.passes import EXACT

    fast = tersor.optimize(
        task.model, task.inputs, dynamic=task.dynamic, passes=",".join((*EXACT, recipe)), budget=1.0,
        calibration=task.calibration, backend="onnxruntime", seconds=0.0, progress=False,
    )  # fmt: skip
    dropped = [f"{step.spec}: {step.reason}" for step in fast.report.steps if step.status == "dropped"]
    if dropped:
        raise ValueError("; ".join(dropped))
    if "(" in fast.report.kept:  # the original, or the exact passes alone: the backend refused what was quantized
        raise ValueError("; ".join(fast.report.notes))
    made: Path = fast.to_onnx(path)
    return made


LAYERS = ["Conv", "MatMul", "Gemm"]
TOOLS: dict[str, Tool] = {
    "ONNX Runtime static": ort_static,
    "ONNX Runtime static, per channel": partial(ort_static, per_channel=True),
    "ONNX Runtime static, prepared, per channel": partial(ort_static, prepare=True, per_channel=True),
    "ONNX Runtime static, prepared, per channel, only layers": partial(
        ort_static, prepare=True, per_channel=True, op_types_to_quantize=LAYERS
    ),
    "ONNX Runtime dynamic": ort_dynamic,
    "ONNX Runtime dynamic, prepared": partial(ort_dynamic, prepare=True),
    "NNCF (OpenVINO)": nncf_openvino,
    "NNCF (ONNX)": nncf_onnx,
    "ModelOpt (ONNX)": modelopt,
    "torchao dynamic": torchao,
    **{name: partial(ours, recipe=recipe) for name, recipe in RECIPES.items()},
}

WEIGHT_RECIPES = {
    "Tersor, nearest": "quantize-weights{method=nearest}",
    "Tersor, GPTQ": "quantize-weights{method=gptq}",
    "Tersor, AWQ": "quantize-weights{method=awq}",
}
WEIGHT_TOOLS: dict[str, Tool] = {
    "NNCF, nearest": nncf_weights,
    "NNCF, GPTQ": partial(nncf_weights, gptq=True),
    "NNCF, AWQ": partial(nncf_weights, awq=True),
    **{name: partial(ours, recipe=recipe) for name, recipe in WEIGHT_RECIPES.items()},
}
"""The same for four-bit weights in groups of 32 and arithmetic in floating point."""
