"""From whatever the user has to a `Program`: modules, exported programs, ONNX files, zoo names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tersor.errors import CaptureError, InputError, UsageError
from tersor.program import Program

ZOO_PREFIXES = ("zoo:", "timm:", "torchvision:", "hf:")


def load(source: Any, inputs: Any = None, dynamic: Any = None, sizes: Mapping[str, int] | None = None) -> Program:
    """Capture a model.

    Args:
        source: `torch.nn.Module`, `ExportedProgram`, `GraphModule`, path of an ONNX file, `onnx.ModelProto`,
            `onnx_ir.Model`, or a zoo name such as ``"zoo:digits-vit"``.
        inputs: example inputs, a tuple or a dict; optional for ONNX, zoo names and exported programs.
        dynamic: dynamic dimensions as torch.export takes them; ONNX files carry their own.
        sizes: example sizes of an ONNX file's dynamic dimensions, by name.

    Raises:
        CaptureError, InputError, ModelFileError, UsageError: see their classes.
    """
    from tersor.capture.torch import capture_exported, capture_module

    if isinstance(source, str) and source.startswith(ZOO_PREFIXES):
        return _load_zoo(source, inputs, dynamic)
    if isinstance(source, torch.export.ExportedProgram):
        return capture_exported(source)
    if isinstance(source, torch.nn.Module):
        if inputs is None:
            raise InputError("no example inputs were given", "pass a tuple or a dict of tensors that the model accepts")
        return capture_module(source, inputs, dynamic)
    if isinstance(source, str | Path) or is_onnx(source):
        return load_onnx(source, inputs, sizes)
    raise UsageError(
        f"cannot capture a {type(source).__name__}",
        "give an nn.Module, an ExportedProgram, an ONNX file or model, or a zoo name",
    )


def is_onnx(source: Any) -> bool:
    """Whether an object is an ONNX model in memory."""
    return f"{type(source).__module__}.{type(source).__name__}".endswith(("ModelProto", "_core.Model"))


def _load_zoo(name: str, inputs: Any, dynamic: Any) -> Program:
    from tersor.capture.torch import capture_module
    from tersor.models_zoo.catalog import load as load_entry

    entry = load_entry(name)
    return capture_module(
        entry.model, entry.inputs if inputs is None else inputs, entry.dynamic if dynamic is None else dynamic
    )


def load_onnx(source: Any, inputs: Any = None, sizes: Mapping[str, int] | None = None) -> Program:
    """Capture an ONNX model; what torch cannot express stays in it as opaque nodes."""
    from tersor.capture.exported import from_exported
    from tersor.capture.onnx.examples import example_inputs
    from tersor.capture.onnx.importer import import_onnx

    if inputs is None and sizes:
        inputs = example_inputs(source, sizes)
    elif isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    imported = import_onnx(source, inputs)
    names = {
        (position, axis): size
        for position, port in enumerate(imported.interface.inputs)
        for axis, size in enumerate(port.shape or ())
        if isinstance(size, str)
    }
    program = from_exported(
        imported.exported,
        list(imported.example.values()),
        names,
        input_names=imported.input_names,
        output_names=imported.output_names,
    )
    _refuse_fixed_by_example(program, imported)
    program.given = None if imported.given is None else tuple(imported.given.values())
    program.opaque = dict(imported.opaque)
    program.notes = list(dict.fromkeys([*imported.notes, *imported.agreement.check(partial(_at_fitting, program))]))
    ports = (*imported.interface.inputs, *imported.interface.outputs)
    axis_names = {
        (port.name, axis): size for port in ports for axis, size in enumerate(port.shape or ()) if isinstance(size, str)
    }
    metadata = _metadata(imported.interface)
    program.interface = replace(program.interface, axis_names=axis_names, metadata=metadata)
    return program


def _at_fitting(program: Program, *inputs: torch.Tensor) -> Sequence[torch.Tensor]:
    """The outputs at sizes that the program takes; InputError at others."""
    program.check_inputs(inputs)
    return program.run(inputs)


def _refuse_fixed_by_example(program: Program, imported: Any) -> None:
    """torch fixes an axis whose example size is 0 or 1; the file's axis is dynamic, and must stay so."""
    for port, sizes in zip(imported.interface.inputs, program.sizes, strict=True):
        for axis, (wanted, size) in enumerate(zip(port.shape or (), sizes, strict=False)):
            if not isinstance(wanted, int) and isinstance(size, int) and size < 2:
                raise CaptureError(
                    f"axis {axis} of input {port.name!r} is dynamic, and has size {size} in the example, where torch "
                    "fixes it",
                    "give example inputs with a size of at least 2",
                )


def _metadata(interface: Any) -> dict[str, Any]:
    """What the file says of itself, under the names of its protobuf fields."""
    return {
        "metadata_props": interface.metadata,
        "doc_string": interface.doc,
        **{name: getattr(interface, name) for name in ("producer_name", "producer_version", "domain", "model_version")},
    }
