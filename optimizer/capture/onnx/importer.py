"""From an ONNX file to a torch.export program with the same inputs, outputs and dynamic axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram

import tersor.capture.onnx.operators  # noqa: F401  registers the operator functions
from tersor.capture.grow import grown
from tersor.capture.onnx.axes import dynamic_axes, exported_with, fixed_axes
from tersor.capture.onnx.cases import Case, further_cases
from tersor.capture.onnx.dtypes import TORCH_DTYPES
from tersor.capture.onnx.examples import axis_key, fitting_inputs, is_dynamic, reference_outputs
from tersor.capture.onnx.files import ModelFile, Source, read_model
from tersor.capture.onnx.graph import read_graph
from tersor.capture.onnx.interface import Interface, interface_of
from tersor.capture.onnx.opaque import OpaqueNode
from tersor.capture.onnx.parity import Agreement
from tersor.capture.onnx.regions import check_border
from tersor.capture.onnx.replay import Replay
from tersor.errors import InputError


@dataclass(frozen=True)
class Imported:
    """A captured ONNX model.

    Attributes:
        exported: the program, not yet decomposed; its inputs and outputs are those of the file, in order.
        example: the inputs it was captured with.
        given: those that the user gave, where they had to grow (`tersor.capture.grow`).
        opaque: nodes that ONNX Runtime runs, by the key that their calls pass.
        notes: what the user should know: opaque nodes, axes that could not stay dynamic, each with its reason.
        buffer_names: ONNX name of each constant -> name of its buffer in the program.
        agreement: with what ONNX Runtime returns, which what is made of the program is compared, too.
    """

    exported: ExportedProgram
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    interface: Interface
    example: dict[str, torch.Tensor]
    opaque: dict[str, OpaqueNode]
    notes: list[str]
    buffer_names: dict[str, str]
    agreement: Agreement
    given: dict[str, torch.Tensor] | None = None


def import_onnx(
    source: Source | ModelFile,
    inputs: Mapping[str, torch.Tensor] | Sequence[torch.Tensor] | None = None,
    dynamic: Mapping[str, Any] | Sequence[Any] | None = None,
) -> Imported:
    """Capture an ONNX model.

    Args:
        inputs: example inputs by name or in order; None makes them up.
        dynamic: per input what ``torch.export`` takes as dynamic shapes; None keeps every axis dynamic that the
            file leaves open.

    Raises:
        ModelFileError: the file is damaged or not safe to read.
        CaptureError: the model cannot be captured, for example because an input is a sequence.
        InputError: the example inputs do not fit the model.
    """
    file = read_model(source)
    interface = interface_of(file)
    graph = read_graph(file)
    check_border(graph)
    given = None if inputs is None else _checked(interface, inputs)
    if given is None:
        example, wanted = fitting_inputs(file, interface, graph, {}, 0)
    else:
        example = _larger(file, interface, given)
        wanted = reference_outputs(file, example)
    cases = [Case(example, wanted), *further_cases(file, interface, example)]
    replay = Replay(graph).eval()  # only now, so that its tensors and ONNX Runtime's never coexist
    agreement = Agreement.of(graph, cases)
    with torch.no_grad():
        checked = agreement.check(replay)
        shapes, notes = dynamic_axes(interface, example, dynamic)
        exported, more = exported_with(replay, example, shapes, lambda inputs: _accepts(file, inputs))
    notes = [*checked, *notes, *more, *fixed_axes(interface, exported, shapes)]
    notes += [f"kept verbatim: {node.nodes[0].op_type} '{node.outputs[0]}': {node.reason}"
              for node in replay.opaque_nodes.values()]  # fmt: skip
    return Imported(
        exported=exported,
        input_names=tuple(example),
        output_names=tuple(port.name for port in interface.outputs),
        interface=interface,
        example=example,
        opaque=dict(replay.opaque_nodes),
        notes=notes,
        buffer_names=dict(replay.buffer_names),
        agreement=agreement,
        given=None if example is given else given,
    )


def _larger(file: ModelFile, interface: Interface, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs, larger on dynamic axes where they have size 1, if the model takes that."""
    places = {
        (position, axis): axis_key(port, axis)
        for position, port in enumerate(interface.inputs)
        for axis, size in enumerate(port.shape or ())
        if is_dynamic(size)
    }
    made = grown(list(given.values()), places)
    larger = None if made is None else dict(zip(given, made, strict=True))
    return larger if larger is not None and _accepts(file, larger) else given


def _accepts(file: ModelFile, inputs: Mapping[str, torch.Tensor] | None) -> bool:
    if inputs is None:
        return False
    try:
        return reference_outputs(file, inputs) is not None
    except InputError:
        return False


def _checked(
    interface: Interface, inputs: Mapping[str, torch.Tensor] | Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    names = [port.name for port in interface.inputs]
    given = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=False))
    if set(given) != set(names) or len(inputs) != len(names):
        raise InputError(f"the inputs {list(given)} were given", f"give {names}")
    for port in interface.inputs:
        value = given[port.name]
        wanted = TORCH_DTYPES.get(port.element)
        if not isinstance(value, torch.Tensor) or (wanted is not None and value.dtype != wanted):
            kind = getattr(value, "dtype", type(value).__name__)
            raise InputError(f"input '{port.name}' is {kind}", f"give a {wanted} tensor")
        if port.shape is not None and not _fits(tuple(value.shape), port.shape):
            raise InputError(f"input '{port.name}' has shape {list(value.shape)}", f"the model takes {port}")
    return {name: given[name] for name in names}


def _fits(shape: tuple[int, ...], wanted: tuple[Any, ...]) -> bool:
    return len(shape) == len(wanted) and all(not isinstance(w, int) or w == s for s, w in zip(shape, wanted))  # noqa: B905
