"""Example inputs for a model file: seeded, fitting its types and axis names, tried out in ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import onnxruntime
import torch

from tersor.capture.onnx.dtypes import TORCH_DTYPES
from tersor.capture.onnx.files import ModelFile, Source, read_model
from tersor.capture.onnx.graph import Graph, read_graph
from tersor.capture.onnx.interface import Axis, Interface, Port, interface_of
from tersor.capture.onnx.opaque import from_ort, to_ort
from tersor.errors import InputError
from tersor.probes import are_finite, varied

Place = tuple[str, int]
"""An input's name and one of its axes."""

KINDS = ("random", "ones", "clear")
"""Of integers: within what they index; all one. Masks are all one with both, and all zero with the last."""

_IMAGE_SIZES = [(64, 96), (48, 320), (224, 256), (320, 480), (640, 672), (32, 32)]
_LENGTHS = [16, 24, 40, 64, 128]
_NO_NAME = re.compile(r"^(\?|-1|none|unk\w*|)$", re.IGNORECASE)
_SUM = re.compile(r"^(.+?)\s*\+\s*(.+)$")


def example_inputs(
    model: Source | ModelFile, sizes: Mapping[str, int] | None = None, *, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Inputs that the model accepts; dynamic axes get sizes of at least 2 that differ from each other.

    Args:
        sizes: sizes that are wanted, by axis name, or by ``"input[axis]"`` for axes without a name.

    Raises:
        InputError: ONNX Runtime refuses the model with every choice of sizes; or a size is for no dynamic axis.
    """
    file = read_model(model)
    interface = interface_of(file)
    return fitting_inputs(file, interface, read_graph(file), sizes or {}, seed)[0]


def fitting_inputs(
    file: ModelFile, interface: Interface, graph: Graph, sizes: Mapping[str, int], seed: int
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor] | None]:
    """The same for a model that is read already, and what ONNX Runtime returns (None: it cannot load the model).

    Where it cannot, nothing tells whether a mask of ones hides everything, or nothing: masks then hide a part.
    """
    _check_sizes(interface, sizes)
    session = _session(file)
    if session is None:
        inputs = next(_candidates(interface, graph, sizes, seed))[0]
        return dict(zip(inputs, varied(list(inputs.values())) or inputs.values(), strict=True)), None
    problem = ""
    for candidates in _candidates(interface, graph, sizes, seed):
        odd: tuple[dict[str, torch.Tensor], list[torch.Tensor] | None] | None = None
        for inputs in candidates:
            try:
                outputs = _run(session, inputs)
            except Exception as error:  # ONNX Runtime has a dozen exception classes without a common one
                problem = str(error)
                continue
            if are_finite(outputs):
                return inputs, outputs
            odd = odd or (inputs, outputs)
        if odd is not None:
            return odd
    raise InputError(
        f"ONNX Runtime refuses the model with every input tried: {_first_line(problem)}",
        f"give example inputs, or sizes, for {', '.join(str(port) for port in interface.inputs)}",
    )


def _candidates(
    interface: Interface, graph: Graph, sizes: Mapping[str, int], seed: int
) -> Iterator[list[dict[str, torch.Tensor]]]:
    """Inputs of each choice of sizes; several where integers and masks may be one thing or another."""
    bounds = _index_bounds(graph)
    open_kinds = any(port.is_torch and not TORCH_DTYPES[port.element].is_floating_point for port in interface.inputs)
    tried: set[tuple[torch.Size, ...]] = set()
    for chosen in _choices(interface, sizes):
        made = [_tensors(interface, chosen, bounds, kind, seed) for kind in (KINDS if open_kinds else KINDS[:1])]
        shapes = tuple(value.shape for value in made[0].values())
        if shapes not in tried:
            tried.add(shapes)
            yield made


def axis_key(port: Port, axis: int) -> str:
    """What an axis is called in ``sizes``: its name in the file, or ``"input[axis]"``.

    >>> axis_key(Port("x", 1, ("batch", None)), 0), axis_key(Port("x", 1, ("batch", None)), 1)
    ('batch', 'x[1]')
    """
    name = (port.shape or ())[axis]
    return name if isinstance(name, str) and not _NO_NAME.match(name) else f"{port.name}[{axis}]"


def is_dynamic(axis: Axis) -> bool:
    """Whether an axis has no fixed size."""
    return not isinstance(axis, int)


def _check_sizes(interface: Interface, sizes: Mapping[str, int]) -> None:
    known = {
        axis_key(port, i) for port in interface.inputs for i, axis in enumerate(port.shape or ()) if is_dynamic(axis)
    }
    for name, size in sizes.items():
        if name not in known:
            raise InputError(f"'{name}' is no dynamic axis", f"known are: {', '.join(sorted(known)) or 'none'}")
        if size < 1:
            raise InputError(f"axis '{name}' cannot have size {size}", "give a size of at least 1")


def _choices(interface: Interface, sizes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Sizes by axis key, the most usual ones first."""
    for length in _LENGTHS[:2]:
        for height, width in _IMAGE_SIZES:
            yield _assigned(interface, sizes, height, width, length, distinct=True)
    for length in _LENGTHS:
        yield _assigned(interface, sizes, length, length, length, distinct=False)
    for size in (1, 2, 3, 4, 8, *_LENGTHS):
        yield _assigned(interface, sizes, size, size, size, distinct=False, batch=size)


def _assigned(
    interface: Interface,
    sizes: Mapping[str, int],
    height: int,
    width: int,
    length: int,
    *,
    distinct: bool,
    batch: int = 2,
) -> dict[str, int]:
    chosen: dict[str, int] = dict(sizes)
    places = [(axis_key(port, i), port, i) for port in interface.inputs for i in _dynamic_axes(port)]
    for key, port, axis in sorted(places, key=lambda place: "+" in place[0]):  # sums after their parts
        if key in chosen:
            continue
        if (total := summed(key, chosen)) is not None:
            chosen[key] = total
            continue
        wanted = _usual(port, axis, key, (batch, height, width, length))
        while distinct and wanted in chosen.values():
            wanted += 32 if wanted >= 32 else 1
        chosen[key] = wanted
    return chosen


def summed(key: str, chosen: Mapping[str, int]) -> int | None:
    """The size of an axis that is called a sum of others; None where it is not, or they are not known.

    >>> summed("past + sequence", {"past": 3, "sequence": 2}), summed("past + 1", {"past": 3}), summed("past", {})
    (5, 4, None)
    """
    parts = _SUM.match(key)
    if not parts or not all(part in chosen or part.isdigit() for part in parts.groups()):
        return None
    return sum(chosen.get(part, int(part) if part.isdigit() else 0) for part in parts.groups())


def _dynamic_axes(port: Port) -> list[int]:
    return [axis for axis, size in enumerate(port.shape or ()) if is_dynamic(size)]


def _usual(port: Port, axis: int, key: str, usual: tuple[int, int, int, int]) -> int:
    batch, height, width, length = usual
    rank = len(port.shape or ())
    if "batch" in key.lower() or (axis == 0 and "seq" not in key.lower()):
        return batch
    if rank == 4 and isinstance((port.shape or ())[1], int):
        return {2: height, 3: width}.get(axis, length)
    return 3 if rank == 4 and axis == 1 else length


def _index_bounds(graph: Graph) -> dict[str, int]:
    """For each input that ends up as an index into a constant table, the number of rows."""
    passing = {"Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Slice", "Transpose", "Expand"}
    origin = {value.name: value.name for value in graph.inputs}
    bounds: dict[str, int] = {}
    for node in graph.nodes:
        if node.op_type in passing and node.input and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        if node.op_type != "Gather" or node.input[1] not in origin or node.input[0] not in graph.constants:
            continue
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        rows = graph.constants[node.input[0]].dims[axis]
        name = origin[node.input[1]]
        bounds[name] = min(bounds.get(name, rows), rows)
    return bounds


def _tensors(
    interface: Interface, chosen: Mapping[str, int], bounds: Mapping[str, int], kind: str, seed: int
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for port in interface.inputs:
        axes = port.shape or ()
        shape = [axis if isinstance(axis, int) else chosen[axis_key(port, i)] for i, axis in enumerate(axes)]
        result[port.name] = _values(port, shape, bounds.get(port.name, 2), kind, generator)
    return result


def _values(port: Port, shape: list[int], bound: int, kind: str, generator: torch.Generator) -> torch.Tensor:
    if not port.is_torch:
        raise InputError(f"input '{port.name}' is no tensor of a type that torch has", "give example inputs")
    dtype = TORCH_DTYPES[port.element]
    if dtype.is_floating_point and dtype.itemsize > 1:
        return torch.randn(shape, generator=generator).to(dtype)
    if dtype.is_complex or dtype.is_floating_point:
        return torch.randn(shape, generator=generator).clamp(-2, 2).to(dtype)
    if dtype == torch.bool or "mask" in port.name.lower() or kind == "ones":
        return torch.zeros(shape, dtype=dtype) if kind == "clear" else torch.ones(shape, dtype=dtype)
    return torch.randint(0, max(bound, 1), shape, generator=generator).to(dtype)


def _session(file: ModelFile) -> onnxruntime.InferenceSession | None:
    """A session; None for models of an opset or with operators that ONNX Runtime does not know."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if file.base is not None and file.path is None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.base))
    source = str(file.path) if file.path else file.proto.SerializeToString()
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception:  # ONNX Runtime has a dozen exception classes without a common one
        return None


def _run(session: onnxruntime.InferenceSession, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    feeds = {name: to_ort(tensor) for name, tensor in inputs.items()}
    return [from_ort(value) for value in session.run_with_ort_values(None, feeds)]


def answers(file: ModelFile, inputs: Sequence[Mapping[str, torch.Tensor]]) -> list[list[torch.Tensor] | None]:
    """What ONNX Runtime returns for each of several inputs; None where it refuses them."""
    session = _session(file) if inputs else None
    found: list[list[torch.Tensor] | None] = []
    for item in inputs:
        try:
            found.append(None if session is None else _run(session, item))
        except Exception:  # ONNX Runtime has a dozen exception classes without a common one
            found.append(None)
    return found


def reference_outputs(file: ModelFile, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor] | None:
    """What ONNX Runtime returns for these inputs; None where it cannot load the model at all.

    Raises:
        InputError: ONNX Runtime refuses the inputs.
    """
    session = _session(file)
    try:
        return None if session is None else _run(session, inputs)
    except Exception as error:  # ONNX Runtime has a dozen exception classes without a common one
        raise InputError(
            f"ONNX Runtime refuses these inputs: {_first_line(str(error))}", "give inputs that the model accepts"
        ) from error


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:300] if text.strip() else "no reason given"
