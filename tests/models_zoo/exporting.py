"""Exports a zoo entry and compares it with eager PyTorch at another batch size and length."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from tersor.models_zoo import ZooEntry


def tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def exported(entry: ZooEntry) -> torch.nn.Module:
    arguments: tuple[Any, ...] = () if isinstance(entry.inputs, dict) else entry.inputs
    named = entry.inputs if isinstance(entry.inputs, dict) else {}
    with torch.no_grad():
        program = torch.export.export(entry.model, arguments, named, dynamic_shapes=entry.dynamic, strict=False)
    return program.run_decompositions({}).module(check_guards=False)


def resized(entry: ZooEntry, batch: int, length: int) -> tuple[Any, ...] | dict[str, Any]:
    """The inputs with ``batch`` rows and, where dimension 1 is dynamic, ``length`` of it."""
    items = entry.inputs.items() if isinstance(entry.inputs, dict) else enumerate(entry.inputs)
    changed: dict[Any, torch.Tensor] = {}
    for key, value in items:
        value = torch.cat([value] * (batch // len(value) + 1))[:batch]
        changed[key] = value[:, :length] if 1 in entry.dynamic[key] else value
    return changed if isinstance(entry.inputs, dict) else tuple(changed.values())


def assert_follows(entry: ZooEntry, batch: int = 5, length: int = 11) -> None:
    """The exported graph gives what eager PyTorch gives for sizes it was not exported with."""
    graph, inputs = exported(entry), resized(entry, batch, length)
    with torch.no_grad():
        got = tensors(graph(**inputs) if isinstance(inputs, dict) else graph(*inputs))
        wanted = tensors(entry.model(**inputs) if isinstance(inputs, dict) else entry.model(*inputs))
    assert any(len(value) == batch for value in wanted)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
