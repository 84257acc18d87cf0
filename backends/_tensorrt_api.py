"""TensorRT's Python module: where it is, which version it is, and the names of its classes for annotations.

The module has no type stubs and is seldom installed where this is developed. Values are annotated with the names of
their classes, so that a test can compare each use with the published list of TensorRT's names and signatures.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any, Protocol, TypeAlias

import torch

from tersor.backends._tensorrt_options import LEAST, Version, version_of
from tersor.errors import BackendError

Trt: TypeAlias = Any
"""The module itself."""

Builder: TypeAlias = Any
EngineInspector: TypeAlias = Any
ICudaEngine: TypeAlias = Any
IBuilderConfig: TypeAlias = Any
IExecutionContext: TypeAlias = Any
IHostMemory: TypeAlias = Any
ILogger: TypeAlias = Any
INetworkDefinition: TypeAlias = Any
IOptimizationProfile: TypeAlias = Any
ITimingCache: TypeAlias = Any
OnnxParser: TypeAlias = Any
OnnxParserRefitter: TypeAlias = Any
ParserError: TypeAlias = Any
Refitter: TypeAlias = Any
Runtime: TypeAlias = Any

_NAME = "tensorrt"
_INSTALL = "pip install tensorrt on a machine with an NVIDIA GPU, or save the model and build it there"


def missing() -> str | None:
    """Why TensorRT cannot be used here, with the remedy; None where it can."""
    if importlib.util.find_spec(_NAME) is None:
        return f"tensorrt is not installed; {_INSTALL}"
    if not torch.cuda.is_available():
        return "no CUDA device is visible to PyTorch; check the driver, or save the model and build it elsewhere"
    try:
        trt = load()
        found = version(trt)
    except (ImportError, OSError, AttributeError, ValueError) as error:
        return f"tensorrt cannot be loaded: {' '.join(str(error).split())[:200]}; {_INSTALL}"
    return None if found >= LEAST else f"tensorrt {found[0]}.{found[1]} is too old; wanted {LEAST[0]} or later"


@functools.cache
def _imported(name: str) -> Trt:
    return importlib.import_module(name)


def load() -> Trt:
    """The module; raises ImportError or OSError where its libraries are absent."""
    return _imported(_NAME)


def version(trt: Trt) -> Version:
    """Major and minor version of the module."""
    return version_of(str(trt.__version__))


def required() -> Trt:
    """The module, where it can be used; raises BackendError."""
    problem = missing()
    if problem is not None:
        raise BackendError(f"TensorRT cannot be used here: {problem}")
    return load()


def torch_dtype(trt: Trt, dtype: Any) -> torch.dtype:
    """PyTorch's dtype for one of TensorRT's; raises BackendError where there is none."""
    table = {
        trt.DataType.FLOAT: torch.float32,
        trt.DataType.HALF: torch.float16,
        trt.DataType.BF16: torch.bfloat16,
        trt.DataType.INT8: torch.int8,
        trt.DataType.INT32: torch.int32,
        trt.DataType.INT64: torch.int64,
        trt.DataType.BOOL: torch.bool,
        trt.DataType.UINT8: torch.uint8,
        trt.DataType.FP8: torch.float8_e4m3fn,
    }
    if dtype not in table:
        raise BackendError(f"an input or output is {dtype}, which PyTorch has no tensors of", "cast it in the model")
    return table[dtype]


class Kept(Protocol):
    """What a logger of `logger` has kept."""

    messages: list[str]


def logger(trt: Trt) -> ILogger:
    """A logger that keeps errors, see `Kept`, for the exceptions that follow from them."""

    class Keeping(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.messages.append(" ".join(msg.split()))

    return Keeping()


def said(kept: Kept) -> str:
    """The last errors of a logger, for a message."""
    return "; ".join(kept.messages[-3:])[:600] or "TensorRT gave no reason"
