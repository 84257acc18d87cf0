"""torch.export asks for the table of all parameters anew at each parameter, quadratic work; here it is made once."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

_CALLERS = ("torch.export._trace", "torch.export.exported_program")
_FUNCTION = "_populate_param_buffer_metadata_to_new_gm"


@contextmanager
def tables_made_once() -> Iterator[None]:
    """While the block runs, torch.export's loop over the parameters reads tables that were made before it.

    The function is private to torch; where it has moved, capture is slower and otherwise the same.
    """
    modules = [importlib.import_module(name) for name in _CALLERS]
    originals = [(module, getattr(module, _FUNCTION)) for module in modules if hasattr(module, _FUNCTION)]
    try:
        for module, original in originals:
            setattr(module, _FUNCTION, _with_tables(original))
        yield
    finally:
        for module, original in originals:
            setattr(module, _FUNCTION, original)


def _with_tables(original: Callable[..., Any]) -> Callable[..., Any]:
    def populate(metadata: Any, module: Any, signature: Any) -> Any:
        tables = SimpleNamespace(
            inputs_to_parameters=dict(signature.inputs_to_parameters),
            inputs_to_buffers=dict(signature.inputs_to_buffers),
        )
        return original(metadata, module, tables)

    return populate
