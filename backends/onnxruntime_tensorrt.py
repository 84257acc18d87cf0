"""ONNX Runtime's TensorRT provider: engines for what TensorRT takes, CUDA kernels for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir
import onnxruntime

from tersor.backend import Compiled, Finding
from tersor.backends._deploy import arrays, make_folder, write_script
from tersor.backends._tensorrt_form import to_tensorrt_model
from tersor.backends._tensorrt_lint import lint
from tersor.backends._tensorrt_options import LEAST, Options
from tersor.backends._tensorrt_profiles import Profile, Shape, profiles
from tersor.backends._tensorrt_sparse import sparse_layers
from tersor.errors import BackendError
from tersor.export import write_model
from tersor.export.runtime import Provider, Session
from tersor.interface import Flat
from tersor.program import Program
from tersor.target import Target
from tersor.targets.profile import cache_folder

_NAME = "TensorrtExecutionProvider"
_WHICH = ("min", "opt", "max")

_SCRIPT = """\
from pathlib import Path
import numpy as np, onnxruntime
providers = {providers}
session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), providers=providers)
print([array.shape for array in session.run(None, {inputs})])
"""


@dataclass(frozen=True)
class OnnxRuntimeTensorRT(Options):
    """Runs the model in ONNX Runtime, with TensorRT where it takes the nodes, then CUDA, then the CPU."""

    name: str = "onnxruntime_tensorrt"
    description: str = "ONNX Runtime with its TensorRT provider, and CUDA for what TensorRT does not take"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def missing(self) -> str | None:
        """It needs a build of ONNX Runtime with the provider."""
        if _NAME in onnxruntime.get_available_providers():
            return None
        return "this ONNX Runtime has no TensorRT provider; pip install onnxruntime-gpu and tensorrt"

    def compile(self, program: Program, target: Target) -> Compiled:
        """A callable that keeps its own session; raises ExportError or BackendError."""
        if target.device != "cuda":
            raise BackendError(f"TensorRT runs on CUDA devices, not on {target.name!r}", "choose target cuda")
        model = self._model(program)
        session = Session(model, target.threads, "cuda", self.providers(program, model))

        def run(*inputs: object) -> Flat:
            return session.run(inputs)  # type: ignore[arg-type]

        return run

    def _model(self, program: Program) -> ir.Model:
        """Attention is taken apart unless a version that knows it is named: CUDA kernels run what is left over."""
        return to_tensorrt_model(program, self.wanted if self.version else LEAST)

    def providers(self, program: Program, model: ir.Model) -> list[Provider]:
        """The providers in the order of preference, TensorRT with its options."""
        return [(_NAME, self._options(profiles(program, self), model)), *self._rest()]

    def _rest(self) -> list[Provider]:
        return [("CUDAExecutionProvider", {"use_tf32": str(int(self.tf32))}), "CPUExecutionProvider"]

    def _options(self, ranges: Sequence[Profile], model: ir.Model) -> dict[str, str]:
        types = {value.dtype for node in model.graph for value in node.outputs}
        made = {
            "trt_builder_optimization_level": str(self.level),
            "trt_fp16_enable": str(int(ir.DataType.FLOAT16 in types)),
            "trt_bf16_enable": str(int(ir.DataType.BFLOAT16 in types)),
            "trt_int8_enable": str(int(ir.DataType.INT8 in types)),
            "trt_sparsity_enable": str(int(self.sparse and any(not one.reason for one in sparse_layers(model.graph)))),
        }
        if self.workspace:
            made["trt_max_workspace_size"] = str(int(self.workspace * 2**30))
        if self.cache != "none":
            folder = str(cache_folder() / "tensorrt" if self.cache == "auto" else Path(self.cache))
            made |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": folder}
        for place, which in enumerate(_WHICH if ranges else ()):
            shapes = {name: sizes[place] for name, sizes in ranges[0].shapes.items()}
            made[f"trt_profile_{which}_shapes"] = ",".join(f"{name}:{_sizes(shape)}" for name, shape in shapes.items())
        return made

    def save(self, program: Program, folder: Path) -> list[Path]:
        """Write ``model.onnx`` and ``run.py``, a script that needs onnxruntime-gpu, tensorrt and numpy only."""
        make_folder(folder)
        model = self._model(program)
        made = write_model(model, folder / "model.onnx")
        options = {
            key: value
            for key, value in self._options(profiles(program, self), model).items()
            if not key.startswith("trt_timing")
        }
        providers = [(_NAME, options), *self._rest()]
        return [*made, write_script(folder, _SCRIPT.format(providers=providers, inputs=arrays(program)))]

    def lint(self, program: Program, target: Target) -> list[Finding]:
        """As for TensorRT, except that nothing is rejected: CUDA kernels, or the CPU, take what TensorRT does not."""
        found = lint(program, target, self, self.wanted if self.version else LEAST)
        return [
            finding
            if target.device != "cuda" or not finding.fatal
            else Finding(finding.node, f"{finding.problem}; it leaves the engine", finding.remedy)
            for finding in found
        ]


def _sizes(shape: Shape) -> str:
    return "x".join(map(str, shape))


BACKEND = OnnxRuntimeTensorRT()
