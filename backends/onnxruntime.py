"""ONNX Runtime: the default on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from tersor.backend import Compiled, Finding
from tersor.backends._deploy import save_onnx_folder
from tersor.backends._lint import dtype_findings
from tersor.export import to_onnx_model
from tersor.export.ort_attention import with_whole_attention
from tersor.export.runtime import Provider, Session
from tersor.interface import Flat
from tersor.program import Program
from tersor.rewrite_values import key
from tersor.target import Target

SLOWER = ("SkipLayerNormFusion", "MatMulAddFusion")
"""Rewrites of ONNX Runtime that do not pay on a CPU, as of 1.31: ``benchmarks/ort_rewrites.py`` measures it.

The sum in front of a layer normalisation is made part of it, which runs slower than the two; a product and its bias
become ``Gemm`` between two reshapes.
"""

_SCRIPT = """\
import pathlib, numpy as np, onnxruntime
slower = SLOWER  # on CPUs
session = onnxruntime.InferenceSession(pathlib.Path(__file__).with_name("model.onnx"), disabled_optimizers=slower)
outputs = session.run(None, {inputs})
print({{value.name: array.shape for value, array in zip(session.get_outputs(), outputs)}})
""".replace("SLOWER", str(list(SLOWER)))

_UNROUNDED = _SCRIPT.replace('model.onnx"), ', 'model.onnx"), options, ').replace(
    "session =",
    """\
options = onnxruntime.SessionOptions()
# Otherwise what layers with four-bit weights read is rounded to eight bits: faster, and not what was checked.
options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
session =""",
    1,
)


@dataclass(frozen=True)
class OnnxRuntime:
    """Runs the exported model in ONNX Runtime, on its CPU or CUDA provider.

    Attributes:
        tf32: on CUDA, multiply float32 numbers with 10 bits of mantissa; faster, and not what the program says.
        nhwc: on CUDA, keep images with their channels last, as tensor cores read them.
        attention: on a CPU, run self-attention as the one operator that ONNX Runtime has for it, with rotary embeddings
            and shared heads in it, also in what `save` writes; other runtimes cannot read that.
    """

    tf32: bool = False
    nhwc: bool = False
    attention: bool = True
    name: str = "onnxruntime"
    description: str = "ONNX Runtime; runs wherever ONNX files do"

    def missing(self) -> str | None:
        """Always installed: it is a dependency."""
        return None

    def compile(self, program: Program, target: Target) -> Compiled:
        """A callable that keeps its own session; raises ExportError or BackendError."""
        providers = [self.cuda(), "CPUExecutionProvider"] if target.device == "cuda" else None
        model = to_onnx_model(program) if providers else self.for_cpu(program)
        session = Session(model, target.threads, target.device, providers, () if providers else SLOWER)

        def run(*inputs: object) -> Flat:
            return session.run(inputs)  # type: ignore[arg-type]

        return run

    def for_cpu(self, program: Program) -> ir.Model:
        """What its sessions on a CPU run: standard operators, and its own for attention where that is wanted."""
        model = to_onnx_model(program)
        return with_whole_attention(model) if self.attention else model

    def cuda(self) -> Provider:
        """The CUDA provider with its options; its own default for ``use_tf32`` is on."""
        return "CUDAExecutionProvider", {"use_tf32": str(int(self.tf32)), "prefer_nhwc": str(int(self.nhwc))}

    def save(self, program: Program, folder: Path) -> list[Path]:
        """Write ``model.onnx`` and ``run.py``, a script that needs onnxruntime and numpy only."""
        four_bits = any(key(node) == "quantized_decomposed::dequantize_per_channel_group" for node in program.nodes)
        return save_onnx_folder(program, folder, _UNROUNDED if four_bits else _SCRIPT, self.for_cpu(program))

    def lint(self, program: Program, target: Target) -> list[Finding]:
        """Dtypes without kernels, or with slow ones."""
        return dtype_findings(
            program,
            fatal={"complex64": "has no ONNX form", "complex128": "has no ONNX form"},
            slow={"bfloat16": "has few CPU kernels", "float16": "is converted to float32 around each operator"},
        )


BACKEND = OnnxRuntime()
