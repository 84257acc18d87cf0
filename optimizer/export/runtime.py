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
from tersor.export.binding import run_bound
from tersor.export.write import PROTOBUF_LIMIT, encoded_size, to_bytes, write_model
from tersor.interface import Flat

_BITS = {
    torch.bfloat16: (torch.uint16, ir.DataType.BFLOAT16),
    torch.float8_e4m3fn: (torch.uint8, ir.DataType.FLOAT8E4M3FN),
    torch.float8_e5m2: (torch.uint8, ir.DataType.FLOAT8E5M2),
}
"""Dtypes that numpy lacks: the unsigned integers they travel as, and their ONNX name."""

_ONNX_TO_TORCH = {int(onnx_type): dtype for dtype, (_, onnx_type) in _BITS.items()}


Provider = str | tuple[str, dict[str, str]]
"""An execution provider of ONNX Runtime, with its options where it gets any."""


class Session:
    """A loaded model; calls from several threads at once are fine.

    Attributes:
        session: ONNX Runtime's own, for profiling.
    """

    def __init__(
        self,
        model: str | Path | ir.Model,
        threads: int = 0,
        device: str = "cpu",
        providers: Sequence[Provider] | None = None,
        without: Sequence[str] = (),
    ) -> None:
        """Load a file or a model in memory.

        Args:
            model: a path, or a model; those over 2 GB pass through a temporary file.
            threads: threads of one operator; 0 leaves it to ONNX Runtime.
            device: "cpu" or "cuda".
            providers: execution providers, the preferred one first; None takes that of the device.
            without: ONNX Runtime's own rewrites that are to be left out, by name.

        Raises:
            BackendError: ONNX Runtime refuses the model, or has no provider for the device.
        """
        wanted = list(providers) if providers is not None else _providers(device)
        _check_providers(wanted)
        self.session = _load(model, _options(threads), wanted, without)
        _check_fallback(self.session, wanted)
        self._inputs = [value.name for value in self.session.get_inputs()]
        self._outputs = [value.name for value in self.session.get_outputs()]
        types = [value.type for value in (*self.session.get_inputs(), *self.session.get_outputs())]
        self._numpy = not any("bfloat16" in kind or "float8" in kind for kind in types)
        # What its `run` calls after five microseconds of checks, which a zip over the names makes needless.
        self._run = getattr(self.session, "_sess", self.session).run

    def run(self, inputs: Sequence[torch.Tensor]) -> Flat:
        """Outputs of the model on flat inputs, in memory that nothing else refers to.

        They are in the CPU's memory, and in the GPU's where an input is.
        """
        try:
            arrays = _arrays(inputs) if self._numpy else None
            if arrays is not None:
                return self._run_arrays(arrays)
            if any(value.is_cuda for value in inputs):
                return run_bound(self.session, self._inputs, self._outputs, inputs, "cuda")
            return self._run_values(inputs)
        except TersorError:
            raise
        except Exception as error:  # ONNX Runtime has a dozen exception classes without a common one
            raise BackendError(f"ONNX Runtime fails on the model: {_reason(error)}", "try another backend") from error

    def _run_arrays(self, arrays: Sequence[Any]) -> Flat:
        made = self._run(self._outputs, dict(zip(self._inputs, arrays, strict=True)), None)
        return tuple([_from_numpy(value) for value in made])

    def _run_values(self, inputs: Sequence[torch.Tensor]) -> Flat:
        held = [_host(value) for value in inputs]
        feeds = {name: _to_ort(value) for name, value in zip(self._inputs, held, strict=True)}
        return tuple(_from_ort(value) for value in self.session.run_with_ort_values(self._outputs, feeds))


def _arrays(inputs: Sequence[torch.Tensor]) -> list[Any] | None:
    """The inputs as numpy sees them; None where one lies in a GPU's memory."""
    try:
        return [value.numpy() for value in inputs]
    except (RuntimeError, TypeError):  # it requires a gradient, or is not in the CPU's memory
        return None if any(value.is_cuda for value in inputs) else [_host(value).numpy() for value in inputs]


def _from_numpy(value: Any) -> torch.Tensor:
    try:
        return torch.from_numpy(value)
    except TypeError:  # a sequence or a scalar, or unsigned long long: as wide as uint64, and unknown to torch
        array = numpy.asarray(value)
        return torch.from_numpy(array.view(numpy.uint64) if array.dtype.char == "Q" else array)


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
    options.add_session_config_entry(*_waiting(onnxruntime.__version__))
    # The default, 4, rounds what layers with four-bit weights read to eight bits, which no program says.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return options


def _waiting(version: str) -> tuple[str, str]:
    """How long threads wait for the next run before they sleep, as an entry of the session's configuration.

    Waking them costs some 30 microseconds a run, and threads that spin on for the milliseconds of ONNX Runtime's
    default slow whatever runs next in this process. 200 microseconds span two calls in a row and little else. Releases
    before 1.31 were not seen to obey that entry; there the threads sleep at once.

    >>> _waiting("1.22.0")
    ('session.force_spinning_stop', '1')
    """
    known = tuple(int(part) for part in version.split(".")[:2]) >= (1, 31)
    return ("session.intra_op.spin_duration_us", "200") if known else ("session.force_spinning_stop", "1")


def _providers(device: str) -> list[Provider]:
    wanted = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device, device)
    return [wanted] if device == "cpu" else [wanted, "CPUExecutionProvider"]


def provider_name(provider: Provider) -> str:
    """Without its options."""
    return provider if isinstance(provider, str) else provider[0]


def _check_providers(wanted: Sequence[Provider]) -> None:
    name = provider_name(wanted[0])
    if name not in onnxruntime.get_available_providers():
        raise BackendError(f"this ONNX Runtime has no {name}", "pip install onnxruntime-gpu, or choose target cpu")


def _check_fallback(session: Any, wanted: Sequence[Provider]) -> None:
    """ONNX Runtime falls back to the CPU with nothing but a warning where a provider's libraries cannot be loaded."""
    name, got = provider_name(wanted[0]), session.get_providers()
    if name not in got:
        raise BackendError(
            f"ONNX Runtime could not load {name} and would run on {got[0]}",
            "install the CUDA, cuDNN or TensorRT version that onnxruntime-gpu was built for",
        )


def _load(model: str | Path | ir.Model, options: Any, providers: list[Provider], without: Sequence[str]) -> Any:
    if not isinstance(model, ir.Model):
        return _session(str(model), options, providers, without)
    if encoded_size(model) <= PROTOBUF_LIMIT:
        return _session(to_bytes(model), options, providers, without)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_model(model, path)
        return _session(str(path), options, providers, without)


def _session(source: str | bytes, options: Any, providers: list[Provider], without: Sequence[str]) -> Any:
    try:
        return onnxruntime.InferenceSession(source, options, providers=providers, disabled_optimizers=list(without))
    except Exception as error:  # ONNX Runtime has a dozen exception classes without a common one
        raise BackendError(
            f"ONNX Runtime cannot load the model: {_reason(error)}", "try another backend or another opset"
        ) from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 400 else f"{text[:400]}..."
