"""Inputs on which an import is compared with ONNX Runtime: the example, other sizes, masks that hide something."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tersor.bindings import stepped
from tersor.capture.onnx.examples import answers, axis_key, is_dynamic, summed
from tersor.capture.onnx.files import ModelFile
from tersor.capture.onnx.interface import Interface
from tersor.probes import are_finite, varied


@dataclass(frozen=True)
class Case:
    """Inputs by name, and what ONNX Runtime returns for them; None where it cannot load the model."""

    inputs: dict[str, torch.Tensor]
    outputs: list[torch.Tensor] | None


def further_cases(file: ModelFile, interface: Interface, example: Mapping[str, torch.Tensor]) -> list[Case]:
    """Cases that ONNX Runtime takes besides the example; not those that only give infinity or NaN."""
    made = varied(list(example.values()))
    tried = [_larger(interface, example), None if made is None else dict(zip(example, made, strict=True))]
    inputs = [item for item in tried if item is not None]
    found = zip(inputs, answers(file, inputs), strict=True)
    return [Case(item, outputs) for item, outputs in found if outputs is not None and are_finite(outputs)]


def _larger(interface: Interface, example: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """The example repeated along dynamic axes to a larger size; None where no axis is dynamic, or one is empty."""
    places = [
        (port, axis) for port in interface.inputs for axis, size in enumerate(port.shape or ()) if is_dynamic(size)
    ]
    sizes = {axis_key(port, axis): example[port.name].shape[axis] for port, axis in places}
    if not sizes or not all(sizes.values()):
        return None
    parts = {key: stepped(size) for key, size in sizes.items()}
    made = dict(example)
    for port, axis in places:
        key, value = axis_key(port, axis), made[port.name]
        total = summed(key, parts)
        index = torch.arange(parts[key] if total is None else total) % value.shape[axis]
        made[port.name] = value.index_select(axis, index)
    return made
