"""ONNX Runtime on torch tensors: one session, called with flat tensors, returning flat tensors of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import onnx_ir as ir
import onnxruntime
import torch

from tersor.errors import BackendError, TersorError
from tersor.export.write import PROTOBUF_LIMIT, encoded_size, to_bytes, write_model
from tersor.interface import Flat

_BITS = {
    torch.bfloat16: (torch.uint16, ir.DataType.BFLOAT16),
    torch.float8_e4m3fn: (torch.uint8, ir.DataType.FLOAT8E4M3FN),
    torch.float8_e5m2: (torch.uint8, ir.DataType.FLOAT8E5M2),
}
"""Dtypes that numpy lacks: the unsigned integers they travel as, and their ONNX name."""

_ONNX_TO_TORCH = {int(onnx_type): dtype for dtype, (_, onnx_type) in _BITS.items()}


class Session:
    """A loaded model; calls from several threads at once are fine.

    Attributes:
        session: ONNX Runtime's own, for profiling.
    """

    def __init__(self, model: str | Path | ir.Model, threads: int = 0, device: str = "cpu") -> None:
        """Load a file or a model in memory.

        Args:
            model: a path, or a model; those over 2 GB pass through a temporary file.
            threads: threads of one operator; 0 leaves it to ONNX Runtime.
            device: "cpu" or "cuda".

        Raises:
            BackendError: ONNX Runtime refuses the model, or has no provider for the device.
        """
        self.session = _load(model, _options(threads), _providers(device))
        self._inputs = [value.name for value in self.session.get_inputs()]
        self._outputs = [value.name for value in self.session.get_outputs()]
        types = [value.type for value in (*self.session.get_inputs(), *self.session.get_outputs())]
        self._numpy = not any("bfloat16" in kind or "float8" in kind for kind in types)

    def run(self, inputs: Sequence[torch.Tensor]) -> Flat:
        """Outputs of the model on flat inputs, in CPU memory that nothing else refers to."""
        try:
            return self._run_numpy(inputs) if self._numpy else self._run_values(inputs)
        except TersorError:
            raise
        except Exception as error:  # ONNX Runtime has a dozen exception classes without a common one
            raise BackendError(f"ONNX Runtime fails on the model: {_reason(error)}", "try another backend") from error

    def _run_numpy(self, inputs: Sequence[torch.Tensor]) -> Flat:
        feeds = {name: _array(value) for name, value in zip(self._inputs, inputs, strict=True)}
        return tuple(_from_numpy(value) for value in self.session.run(self._outputs, feeds))

    def _run_values(self, inputs: Sequence[torch.Tensor]) -> Flat:
        held = [_host(value) for value in inputs]
        feeds = {name: _to_ort(value) for name, value in zip(self._inputs, held, strict=True)}
        return tuple(_from_ort(value) for value in self.session.run_with_ort_values(self._outputs, feeds))


def _from_numpy(value: Any) -> torch.Tensor:
    array = value if isinstance(value, numpy.ndarray) else numpy.asarray(value)
    if array.dtype == numpy.ulonglong:  # a type of its own where it is as wide as uint64, and unknown to torch
        array = array.view(numpy.uint64)
    return torch.from_numpy(array)


def _array(value: torch.Tensor) -> Any:
    """Without the calls that change nothing in the usual case: a model may take a tenth of a millisecond."""
    plain = value.is_cpu and not value.requires_grad and value.is_contiguous()
    return value.numpy() if plain else _host(value).numpy()


def _host(value: torch.Tensor) -> torch.Tensor:
    return value.detach().cpu().contiguous()


def _to_ort(value: torch.Tensor) -> Any:
    if value.dtype not in _BITS:
        return onnxruntime.OrtValue.ortvalue_from_numpy(value.numpy())
    bits, onnx_type = _BITS[value.dtype]
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(value.view(bits).numpy(), int(onnx_type))


def _from_ort(value: Any) -> torch.Tensor:
    dtype = _ONNX_TO_TORCH.get(value.element_type())
    if dtype is None:
        return torch.from_numpy(numpy.array(value.numpy()))
    return torch.from_dlpack(value).view(dtype).clone()


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that spin after a run would slow whatever runs next in this process.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # The default, 4, rounds what layers with four-bit weights read to eight bits, which no program says.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return options


def _providers(device: str) -> list[str]:
    wanted = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device, device)
    if wanted not in onnxruntime.get_available_providers():
        raise BackendError(f"this ONNX Runtime has no {wanted}", "pip install onnxruntime-gpu, or choose target cpu")
    return [wanted] if device == "cpu" else [wanted, "CPUExecutionProvider"]


def _load(model: str | Path | ir.Model, options: Any, providers: list[str]) -> Any:
    if not isinstance(model, ir.Model):
        return _session(str(model), options, providers)
    if encoded_size(model) <= PROTOBUF_LIMIT:
        return _session(to_bytes(model), options, providers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_model(model, path)
        return _session(str(path), options, providers)


def _session(source: str | bytes, options: Any, providers: list[str]) -> Any:
    try:
        return onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:  # ONNX Runtime has a dozen exception classes without a common one
        raise BackendError(
            f"ONNX Runtime cannot load the model: {_reason(error)}", "try another backend or another opset"
        ) from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 400 else f"{text[:400]}..."
