"""TensorRT: NVIDIA's compiler. Where it is absent, the model, a build script, the exact commands, and lint."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir
import torch

from tersor.backend import Finding
from tersor.backends import _tensorrt_api as api
from tersor.backends._deploy import make_folder
from tersor.backends._tensorrt_build import build
from tersor.backends._tensorrt_cache import cache_path
from tersor.backends._tensorrt_commands import script
from tersor.backends._tensorrt_device import Cuda, Device
from tersor.backends._tensorrt_engine import Engine
from tersor.backends._tensorrt_findings import Noted
from tersor.backends._tensorrt_form import to_tensorrt_model
from tersor.backends._tensorrt_lint import lint
from tersor.backends._tensorrt_options import Options, Version
from tersor.backends._tensorrt_parser import refused
from tersor.backends._tensorrt_profiles import profiles
from tersor.backends._tensorrt_refit import refit
from tersor.backends._tensorrt_script import build_script, run_script
from tersor.backends._tensorrt_sparse import sparse_layers
from tersor.backends._tensorrt_times import layer_times
from tersor.errors import BackendError, OutputError
from tersor.export import write_model
from tersor.interface import Flat
from tersor.program import Program
from tersor.report.model import LayerTime
from tersor.target import Target

PLAN = "model.plan"


class CompiledEngine:
    """An engine with what it was built from: a callable on flat tensors.

    Attributes:
        plan: the engine, serialized.
        engine: what runs it.
    """

    def __init__(self, plan: bytes, engine: Engine, version: Version) -> None:
        self.plan, self.engine, self._version = plan, engine, version

    def __call__(self, *inputs: torch.Tensor) -> Flat:
        """Outputs on the device of the inputs."""
        return self.engine(*inputs)

    def layers(self, inputs: Sequence[torch.Tensor]) -> list[LayerTime]:
        """How long each layer takes on these inputs."""
        return layer_times(self.engine, inputs)

    def refit(self, program: Program) -> None:
        """Take the weights of another program of the same graph; raises BackendError where they do not fit."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            write_model(to_tensorrt_model(program, self._version), path)
            self.engine.forget()
            refit(self.engine.trt, self.engine.kept, self.engine.engine, path)


@dataclass(frozen=True)
class TensorRT(Options):
    """Builds an engine for the GPU of this machine, and runs it on torch tensors."""

    name: str = "tensorrt"
    description: str = "NVIDIA TensorRT on CUDA devices; without it, files and commands to build elsewhere"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def missing(self) -> str | None:
        """It needs the library and a device."""
        return api.missing()

    def compile(self, program: Program, target: Target) -> CompiledEngine:
        """Build, load, and give a callable; raises ExportError or BackendError."""
        if target.device != "cuda":
            raise BackendError(f"TensorRT runs on CUDA devices, not on {target.name!r}", "choose target cuda")
        trt = api.required()
        return self.on(trt, program, Cuda(), torch.cuda.get_device_name())

    def on(self, trt: api.Trt, program: Program, device: Device, name: str) -> CompiledEngine:
        """`compile` with the module and the device in hand."""
        version, kept = api.version(trt), api.logger(trt)
        model = to_tensorrt_model(program, version)
        key = ("tensorrt", self, version)
        if key not in program.derived:
            program.derived[key] = self._plan(trt, kept, program, model, version, name)
        plan: bytes = program.derived[key]
        engine = Engine(trt, kept, plan, device, graphs=self.graphs)
        made = CompiledEngine(plan, engine, version)
        if self.strip:
            made.refit(program)
        return made

    def _plan(
        self, trt: api.Trt, kept: api.ILogger, program: Program, model: ir.Model, version: Version, name: str
    ) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            write_model(model, path)
            return build(
                trt, kept, path, profiles(program, self), self,
                sparse=any(not found.reason for found in sparse_layers(model.graph)),
                cache=cache_path(self.cache, version, name),
            )  # fmt: skip

    def save(self, program: Program, folder: Path) -> list[Path]:
        """Write the model, ``build.py``, ``run.py`` and ``commands.sh``; the engine too where it can be built here."""
        make_folder(folder)
        usable = self.missing() is None
        model = to_tensorrt_model(program, api.version(api.load()) if usable else self.wanted)
        sparse = any(not found.reason for found in sparse_layers(model.graph))
        ranges = profiles(program, self)
        shapes = {
            name: tuple(value.shape) for name, value in zip(program.interface.input_names, program.inputs, strict=True)
        }
        dynamic = {name: shape for name, shape in shapes.items() if ranges and name in ranges[0].shapes}
        made = write_model(model, folder / "model.onnx")
        texts = {
            "build.py": build_script(ranges, self, sparse=sparse),
            "run.py": run_script(program, program.inputs),
            "commands.sh": script(ranges, self, sparse=sparse, example=dynamic),
        }
        made += [_write(folder / name, text.encode()) for name, text in texts.items()]
        if usable:
            made.append(_write(folder / PLAN, self.compile(program, Target("cuda", "cuda")).plan))
        return made

    def lint(self, program: Program, target: Target) -> list[Finding]:
        """What TensorRT would reject or run slowly; an installed parser is asked, but none is needed."""
        if self.missing() is not None:
            return lint(program, target, self, self.wanted)
        trt = api.load()
        return lint(program, target, self, api.version(trt), lambda model: _asked(trt, model))


def load(path: Path, *, graphs: bool = True) -> Engine:
    """An engine from a file; raises BackendError where it cannot be read, or is for another version or device."""
    trt = api.required()
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise BackendError(f"the engine {str(path)!r} cannot be read: {error.strerror}", "check the path") from None
    return Engine(trt, api.logger(trt), plan, Cuda(), graphs=graphs)


def _asked(trt: api.Trt, model: ir.Model) -> list[Noted]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_model(model, path)
        return list(refused(trt, api.logger(trt), path))


def _write(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"'{path}' cannot be written: {error.strerror}", "free some space") from error
    return path


BACKEND = TensorRT()
