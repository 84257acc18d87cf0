"""OpenVINO: Intel's runtime for CPUs, optional."""

from __future__ import annotations

import importlib.util
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import onnx_ir as ir
import torch

from tersor.backend import Compiled, Finding
from tersor.backends._deploy import save_onnx_folder
from tersor.backends._lint import dtype_findings
from tersor.errors import BackendError
from tersor.export import to_onnx_model, write_model
from tersor.interface import Flat
from tersor.program import Program
from tersor.target import Target

_SCRIPT = """\
from pathlib import Path
import numpy as np, openvino
model = openvino.compile_model(Path(__file__).with_name("model.onnx"), "CPU")
outputs = model({inputs})
print({{port.any_name: array.shape for port, array in outputs.items()}})
"""

_NO_NUMPY = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True)
class OpenVino:
    """Runs the exported model on OpenVINO's CPU plugin, computing in float32."""

    name: str = "openvino"
    description: str = "OpenVINO on the CPU, set for latency"

    def missing(self) -> str | None:
        """It is an extra."""
        if importlib.util.find_spec("openvino") is not None:
            return None
        return "openvino is not installed; pip install 'tersor[openvino]'"

    def compile(self, program: Program, target: Target) -> Compiled:
        """A callable with one inference request per thread; raises ExportError or BackendError."""
        _refuse_dtypes(program)
        if target.device != "cpu":
            raise BackendError(f"OpenVINO runs here on the CPU, not on {target.device}", "choose target cpu")
        compiled = _compile(to_onnx_model(program), target.threads)
        order = [_position(compiled.inputs, index, name) for index, name in enumerate(program.interface.input_names)]
        requests = threading.local()

        def run(*inputs: torch.Tensor) -> Flat:
            if not hasattr(requests, "own"):
                requests.own = compiled.create_infer_request()
            arrays = {
                position: value.detach().cpu().contiguous().numpy()
                for position, value in zip(order, inputs, strict=True)
                if position is not None
            }
            try:
                requests.own.infer(arrays, share_inputs=True)
            except RuntimeError as error:
                raise BackendError(f"OpenVINO fails on the model: {_reason(error)}", "try another backend") from error
            # The request's memory is used again by its next call.
            return tuple(torch.from_numpy(numpy.array(tensor.data)) for tensor in requests.own.output_tensors)

        return run

    def save(self, program: Program, folder: Path) -> list[Path]:
        """Write ``model.onnx`` and ``run.py``, a script that needs openvino and numpy only."""
        return save_onnx_folder(program, folder, _SCRIPT)

    def lint(self, program: Program, target: Target) -> list[Finding]:
        """Dtypes that it cannot hold, or converts."""
        return dtype_findings(
            program,
            fatal={"complex64": "has no ONNX form", "complex128": "has no ONNX form"},
            slow={"float64": "is computed in float32", "bfloat16": "is computed in float32"},
        )


def _refuse_dtypes(program: Program) -> None:
    outputs = [node.meta.get("val") for node in program.outputs]
    for value in (*program.inputs, *outputs):
        if isinstance(value, torch.Tensor) and value.dtype in _NO_NUMPY:
            raise BackendError(
                f"inputs or outputs of {value.dtype} cannot pass to OpenVINO without numpy",
                "use the onnxruntime or inductor backend",
            )


def _compile(model: ir.Model, threads: int) -> Any:
    import openvino
    from openvino import properties

    settings = {
        properties.hint.performance_mode: properties.hint.PerformanceMode.LATENCY,
        properties.hint.inference_precision: openvino.Type.f32,
        properties.inference_num_threads: threads,
        # Otherwise what layers with compressed weights read is rounded to eight bits, which no program says.
        properties.hint.dynamic_quantization_group_size: 0,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_model(model, path)
        try:
            core = openvino.Core()
            return core.compile_model(core.read_model(path), "CPU", settings)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot load the model: {_reason(error)}", "try another backend") from error


def _position(ports: Sequence[Any], index: int, name: str) -> int | None:
    """Where an input is among the compiled model's, which may have dropped one that is not used."""
    named = [position for position, port in enumerate(ports) if name in port.names]
    return named[0] if named else (index if len(ports) > index and not ports[index].names else None)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 400 else f"{text[:400]}..."


BACKEND = OpenVino()
