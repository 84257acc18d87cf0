"""What Inductor says while it compiles that its users cannot act on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Inductor imports and calls deprecated parts of PyTorch while it compiles."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch.*")
        warnings.filterwarnings("ignore", category=FutureWarning, module="(torch|copyreg).*")
        yield
