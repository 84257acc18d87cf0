"""torch.onnx builds its table of translations anew for each export, 0.5 s; it is the same each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TABLES: dict[Any, Any] = {}


@contextmanager
def remembered_table() -> Iterator[None]:
    """While the block runs, torch.onnx gets a copy of the table built first.

    The class is private to torch; where it has moved, exports are slower and otherwise the same.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry as registry
    except ImportError:
        yield
        return
    original = registry.from_torchlib

    def from_torchlib(*args: Any, **kwargs: Any) -> Any:
        key = (args, tuple(sorted(kwargs.items())))
        if key not in _TABLES:
            _TABLES[key] = original(*args, **kwargs)
        made = registry()
        made.__dict__.update(_TABLES[key].__dict__)
        made.functions = {name: list(found) for name, found in _TABLES[key].functions.items()}
        return made

    registry.from_torchlib = staticmethod(from_torchlib)  # type: ignore[method-assign]
    try:
        yield
    finally:
        registry.from_torchlib = original  # type: ignore[method-assign]
