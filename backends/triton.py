"""GPUs: Inductor over the program with the project's own kernels, packaged ahead of time to run without Python."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from tersor.backend import Compiled, Finding
from tersor.backends._deploy import make_folder, write_script
from tersor.backends._inductor_warnings import quiet
from tersor.errors import BackendError, first_line
from tersor.export.reexport import reexport
from tersor.interface import Flat
from tersor.program import Program
from tersor.target import Target, known

if TYPE_CHECKING:
    from tersor.backends._triton_lower import Lowering

_SCRIPT = """\
from pathlib import Path
import torch
module = torch._inductor.aoti_load_package(str(Path(__file__).with_name("model.pt2")))
outputs = module({inputs})
print([tuple(value.shape) for value in outputs])
"""

_CPP = """\
// Link with libtorch; no Python is needed.
#include <iostream>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>
int main() {{
  c10::InferenceMode guard;
  torch::inductor::AOTIModelPackageLoader loader("model.pt2");
  std::vector<torch::Tensor> inputs = {{{inputs}}};
  for (const auto& output : loader.run(inputs)) std::cout << output.sizes() << std::endl;
}}
"""


@dataclass(frozen=True)
class Triton:
    """Compiles for the CUDA device of this machine."""

    name: str = "triton"
    description: str = "Inductor with the project's kernels, on NVIDIA GPUs"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def missing(self) -> str | None:
        """It needs a CUDA device, PyTorch built for it, and Triton."""
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed; pip install triton"
        if torch.version.cuda is None:
            return f"PyTorch {torch.__version__} is built without CUDA; install its CUDA build"
        if not torch.cuda.is_available():
            return "no CUDA device is visible; 'tersor compile-kernels' compiles kernels without one"
        major, minor = torch.cuda.get_device_capability()
        return None if major >= 8 else f"the kernels are made for sm_80 and later, not for sm_{major}{minor}"

    def compile(self, program: Program, target: Target) -> Compiled:
        """A callable that takes and returns tensors of the CPU or the GPU, as given; raises BackendError."""
        from tersor.backends._triton_lower import lower

        made = lower(program, self._usable(target))
        fixed = not program.dimensions
        try:
            module = _module(made, "cuda")
            compiled = torch.compile(module, dynamic=not fixed, fullgraph=True, options={"triton.cudagraphs": fixed})
            call = _moving(compiled, copied=fixed)
            call(*program.inputs)
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(f"Inductor cannot compile the program: {first_line(error)}", "try inductor") from error
        return call

    def save(self, program: Program, folder: Path) -> list[Path]:
        """Write ``model.pt2``, a package of AOTInductor for this device, and scripts that run it without Tersor."""
        from tersor.backends._triton_lower import lower

        made = lower(program, self._usable(Target("cuda", "cuda")))
        make_folder(folder)
        package(made.program, folder / "model.pt2", "cuda")
        return [folder / "model.pt2", *scripts(program, folder, "cuda")]

    def lint(self, program: Program, target: Target) -> list[Finding]:
        """Dtypes, head sizes and shapes that run slowly or not at all; needs no GPU."""
        from tersor.backends._triton_lint import findings

        return findings(program, target)

    def _usable(self, target: Target) -> Target:
        """The target with the data sheet of this machine's device; raises BackendError where none can be used."""
        if target.device != "cuda":
            raise BackendError(f"triton runs on CUDA devices, not on target {target.name}", "choose one, such as h100")
        if problem := self.missing():
            raise BackendError(f"triton cannot be used here: {problem}")
        return target if target.bandwidth else sheet(torch.cuda.get_device_name(), torch.cuda.get_device_capability())


def sheet(name: str, capability: tuple[int, int]) -> Target:
    """The data sheet of a device by the name that its driver gives it, or one of its compute capability.

    >>> sheet("NVIDIA H100 80GB HBM3", (9, 0)).name, sheet("NVIDIA H200", (9, 0)).name
    ('h100', 'h200')
    """
    plain = name.lower().replace("nvidia", "").replace("geforce", "").split()
    sheets = [target for target in known().values() if target.capability == f"{capability[0]}.{capability[1]}"]
    for target in sheets:
        if plain and target.name.split("-")[0] == plain[0].split("-")[0]:
            return target
    return sheets[0] if sheets else Target("cuda", "cuda", capability=f"{capability[0]}.{capability[1]}")


def exported(program: Program, device: str) -> torch.export.ExportedProgram:
    """The program as torch.export writes it, with everything on a device."""
    from torch.export.passes import move_to_device_pass

    made = reexport(program)
    return made if device == "cpu" else move_to_device_pass(made, device)


def package(program: Program, path: Path, device: str, options: dict[str, Any] | None = None) -> Path:
    """Compile ahead of time into one file, whole or not at all; raises BackendError."""
    temporary = path.with_name(f".partial-{path.name}")
    try:
        with torch.no_grad(), quiet():
            torch._inductor.aoti_compile_and_package(
                exported(program, device), package_path=str(temporary), inductor_configs=options
            )
        temporary.replace(path)
    except Exception as error:
        temporary.unlink(missing_ok=True)
        raise BackendError(
            f"AOTInductor cannot package it: {first_line(error)}", "save with another backend"
        ) from error
    return path


def scripts(program: Program, folder: Path, device: str) -> list[Path]:
    """Write ``run.py`` and ``run.cpp``, which run the package on zeros."""
    shapes = [(list(value.shape), str(value.dtype).removeprefix("torch.")) for value in program.inputs]
    python = ", ".join(f"torch.zeros({shape}, dtype=torch.{dtype}, device={device!r})" for shape, dtype in shapes)
    kind = "torch::kCUDA" if device == "cuda" else "torch::kCPU"
    cpp = ", ".join(
        f"torch::zeros({{{', '.join(map(str, shape))}}}, torch::dtype({_CPP_TYPES[dtype]}).device({kind}))"
        for shape, dtype in shapes
    )
    source = folder / "run.cpp"
    source.write_text(_CPP.format(inputs=cpp), encoding="utf-8")
    return [write_script(folder, _SCRIPT.format(inputs=f"[{python}]")), source]


_CPP_TYPES = {
    "float32": "torch::kFloat32", "float16": "torch::kFloat16", "bfloat16": "torch::kBFloat16",
    "float64": "torch::kFloat64", "int8": "torch::kInt8", "uint8": "torch::kUInt8", "int16": "torch::kInt16",
    "int32": "torch::kInt32", "int64": "torch::kInt64", "bool": "torch::kBool",
}  # fmt: skip


def _module(made: Lowering, device: str) -> torch.nn.Module:
    """The lowered program on a device, 2:4 weights in PyTorch's semi-structured tensors."""
    module = exported(made.program, device).module(check_guards=False)
    for name in made.semi_structured:
        path, _, last = name.rpartition(".")
        owner = module.get_submodule(path)
        sparse = torch.sparse.to_sparse_semi_structured(getattr(owner, last).detach().contiguous())
        if last in owner._parameters:
            owner._parameters[last] = torch.nn.Parameter(sparse, requires_grad=False)
        else:
            owner._buffers[last] = sparse
    return module


def _moving(compiled: Any, copied: bool) -> Compiled:
    """Call with tensors of any device; results are where the inputs were.

    CUDA graphs use the memory of results again, so these are copied.
    """

    def run(*inputs: torch.Tensor) -> Flat:
        away = bool(inputs) and all(value.device.type == "cpu" for value in inputs)
        with torch.no_grad(), quiet():
            made: Sequence[torch.Tensor] = compiled(*(value.to("cuda") for value in inputs))
            if away:
                return tuple(value.cpu() for value in made)
            return tuple(value.clone() for value in made) if copied else tuple(made)

    return run


BACKEND = Triton()
