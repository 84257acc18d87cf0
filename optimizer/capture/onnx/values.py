"""The two kinds of value that flow while an ONNX graph is replayed: tensors, and small arrays known on the host.

Shape arithmetic (`Shape -> Gather -> Concat -> Reshape`) is kept on the host, as numpy object arrays whose items are
Python ints, floats, bools or `torch.SymInt`, so that no shape ever becomes data-dependent under torch.export.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


class Opaque(Exception):
    """Raised by an operator that has no torch equivalent for this node; the node is then kept verbatim."""


@dataclass(frozen=True)
class Host:
    """A small array whose items are Python numbers or SymInts.

    Attributes:
        array: numpy array of ``dtype=object``, any rank (rank 0 for scalars).
        dtype: the element type that the ONNX value has.
    """

    array: np.ndarray
    dtype: torch.dtype = torch.int64


Value = torch.Tensor | Host


def host(items: Any, dtype: torch.dtype = torch.int64) -> Host:
    """A host value of nested lists or an array.

    >>> host([1, 2]).array.tolist()
    [1, 2]
    """
    source = np.asarray(items, dtype=object) if not isinstance(items, np.ndarray) else items.astype(object)
    return Host(source, dtype)


def numbers(value: Value | None, what: str) -> list[Any]:
    """The items of a host value, flat; raises `Opaque` where the value is only known when the model runs."""
    if isinstance(value, Host):
        return list(value.array.reshape(-1))
    raise Opaque(f"{what} is computed at run time")


def tensor(value: Value) -> torch.Tensor:
    """The value as a tensor; SymInt items become scalar tensors and are stacked."""
    if isinstance(value, torch.Tensor):
        return value
    items = list(value.array.reshape(-1))
    if any(isinstance(i, torch.SymInt | torch.SymFloat | torch.SymBool) for i in items):
        scalars = [torch.scalar_tensor(i, dtype=value.dtype) for i in items]
        return torch.stack(scalars).reshape(value.array.shape)
    return torch.tensor(items, dtype=value.dtype).reshape(value.array.shape)
