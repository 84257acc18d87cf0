"""Tersor makes any trained network fast: verified rewrites of PyTorch and ONNX models, with a reason for each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tersor.api import Optimized, optimize, plan
    from tersor.capture import load
    from tersor.errors import TersorError

__version__ = "0.1.0"

_HOME = {
    "optimize": "tersor.api",
    "plan": "tersor.api",
    "Optimized": "tersor.api",
    "load": "tersor.capture",
    "TersorError": "tersor.errors",
}

__all__ = ["Optimized", "TersorError", "__version__", "load", "optimize", "plan"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import tersor`` does not import torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'tersor' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
