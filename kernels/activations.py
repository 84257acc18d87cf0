"""Activations at the end of kernels: the same by name for references and by number for Triton."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from tersor.errors import UsageError
from tersor.kernels.language import jit, tl

ACTIVATIONS = ("none", "relu", "silu", "gelu", "gelu_tanh")
"""By their number in kernels; "gelu_tanh" is the approximation by tanh."""


def number(name: str) -> int:
    """The number of an activation; raises UsageError where it has none.

    >>> number("silu")
    2
    """
    if name not in ACTIVATIONS:
        raise UsageError(f"activation {name!r}", f"one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS.index(name)


def activate(value: Tensor, name: str) -> Tensor:
    """The reference.

    >>> import torch
    >>> activate(torch.tensor([-1.0, 2.0]), "relu")
    tensor([0., 2.])
    """
    if number(name) == 0:
        return value
    if name in ("relu", "silu"):
        return functional.relu(value) if name == "relu" else functional.silu(value)
    return functional.gelu(value, approximate="tanh" if name == "gelu_tanh" else "none")


@jit
def activated(value, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    """Float32 in and out."""
    if ACTIVATION == 1:
        value = tl.where(value < 0.0, 0.0, value)  # maximum would take NaN for 0
    elif ACTIVATION == 2:
        value = value * tl.sigmoid(value)
    elif ACTIVATION == 3:
        value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    elif ACTIVATION == 4:
        inner = 0.7978845608028654 * (value + 0.044715 * value * value * value)
        value = value * tl.sigmoid(2.0 * inner)
    return value
