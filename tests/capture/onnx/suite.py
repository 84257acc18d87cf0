"""Cases of the public ONNX backend suite, replayed node by node in PyTorch and compared with their expected outputs."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

import tersor.capture.onnx.operators  # noqa: F401  registers the operator functions
from tersor.capture.onnx.dtypes import LOW_PRECISION, ONNX_DTYPES, TORCH_DTYPES
from tersor.capture.onnx.files import ModelFile, read_model
from tersor.capture.onnx.graph import read_graph
from tersor.capture.onnx.replay import Replay
from tersor.capture.onnx.tensors import read_tensor
from tersor.errors import TersorError


@dataclass(frozen=True)
class Result:
    """How a case went.

    Attributes:
        status: "equal", "different", "refused" (a TersorError: the file is kept as it is) or "error" (any other).
        opaque: operators that ONNX Runtime ran, with the reason.
    """

    name: str
    status: str
    detail: str = ""
    opaque: tuple[tuple[str, str], ...] = ()

    @property
    def ok(self) -> bool:
        """Equal, by torch functions alone."""
        return self.status == "equal" and not self.opaque


@functools.cache
def cases() -> dict[str, Any]:
    """Every case of the installed onnx package by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        kinds = ("node", "simple", "pytorch-converted", "pytorch-operator")
        return {case.name: case for kind in kinds for case in load_model_tests(kind=kind)}


def case_result(case: Any, *, constants: bool = False) -> Result:
    """Replay all data sets of a case (or of the case of this name) and compare.

    With ``constants`` every input but the first becomes an initializer, as shapes, axes and the like are in real files.
    """
    case = cases()[case] if isinstance(case, str) else case
    path = Path(case.model_dir or "") / "model.onnx"
    result = Result(case.name, "equal")
    try:
        model = read_model(path if case.model_dir else case.model)
        sets = _data_sets(case, model.proto)
        for inputs, expected in sets:
            given = ModelFile(_with_constants(model.proto, inputs), model.base) if constants else model
            result = _compare(case, given, inputs, expected)
            if result.status != "equal":
                return result
    except TersorError as error:
        return Result(case.name, "refused", str(error))
    except Exception as error:
        return Result(case.name, "error", f"{type(error).__name__}: {error}")
    return result


def _with_constants(proto: onnx.ModelProto, inputs: list[Any]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for value, tensor in list(zip(copy.graph.input, inputs, strict=False))[1:]:
        if value.name and isinstance(tensor, torch.Tensor):
            data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
            copy.graph.initializer.append(
                onnx.TensorProto(
                    name=value.name, data_type=ONNX_DTYPES[tensor.dtype], dims=list(tensor.shape), raw_data=data
                )
            )
    return copy


def _compare(case: Any, model: Any, inputs: list[Any], expected: list[Any]) -> Result:
    replay = Replay(read_graph(model))
    names = [value.name for value in model.proto.graph.input]
    by_name = dict(zip(names, inputs, strict=False))
    with torch.no_grad():
        outputs = replay(*(by_name[value.name] for value in replay.graph.inputs))
    opaque = tuple((node.nodes[0].op_type, node.reason) for node in replay.opaque_nodes.values())
    for value, wanted, port in zip(outputs, expected, replay.graph.outputs, strict=True):
        problem = _difference(value, wanted, case.rtol, case.atol)
        if problem:
            return Result(case.name, "different", f"{port.name}: {problem}", opaque)
    return Result(case.name, "equal", opaque=opaque)


def _difference(value: torch.Tensor, wanted: torch.Tensor, rtol: float, atol: float) -> str:
    if value.dtype != wanted.dtype or value.shape != wanted.shape:
        return f"{value.dtype}{list(value.shape)} instead of {wanted.dtype}{list(wanted.shape)}"
    if value.dtype in LOW_PRECISION:
        value, wanted = value.float(), wanted.float()
    if np.allclose(value.numpy(), wanted.numpy(), rtol=rtol, atol=atol, equal_nan=True):
        return ""
    worst = (value.to(torch.complex128) - wanted.to(torch.complex128)).abs().max().item()
    return f"differs by {worst:.3g}"


def _data_sets(case: Any, model: onnx.ModelProto) -> list[tuple[list[Any], list[Any]]]:
    if not case.model_dir:
        return [([_tensor(v) for v in inputs], [_tensor(v) for v in outputs]) for inputs, outputs in case.data_sets]
    sets = []
    for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
        sets.append((_files(folder, "input"), _files(folder, "output")))
    for archive in sorted(Path(case.model_dir).glob("test_data_*.npz")):
        data = np.load(archive, encoding="bytes")
        sets.append(([_tensor(v) for v in data["inputs"]], [_tensor(v) for v in data["outputs"]]))
    return sets


def _files(folder: Path, kind: str) -> list[Any]:
    count = len(list(folder.glob(f"{kind}_*.pb")))
    return [_proto(folder / f"{kind}_{index}.pb") for index in range(count)]


def _proto(path: Path) -> Any:
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return read_tensor(tensor, None) if tensor.data_type in TORCH_DTYPES else None


def _tensor(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return read_tensor(value, None) if value.data_type in TORCH_DTYPES else None
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufcV":
        array = np.asarray(value)
        try:
            return read_tensor(numpy_helper.from_array(array), None)
        except Exception:  # a type that torch lacks: the graph is refused before the value is used
            return None
    return None
