"""All kernels by file name, and what each is compiled for ahead of time."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from tersor.kernels.ahead_of_time import Variant


def kernels() -> dict[str, ModuleType]:
    """The modules that define an operator, by its name without the namespace.

    >>> "attention" in kernels() and "tile" not in kernels()
    True
    """
    package = importlib.import_module("tersor.kernels")
    names = [item.name for item in pkgutil.iter_modules(package.__path__) if item.name != "catalogue"]
    modules = {name: importlib.import_module(f"tersor.kernels.{name}") for name in sorted(names)}
    return {name: module for name, module in modules.items() if hasattr(module, "NAME")}


def variants(capability: int) -> Iterator[Variant]:
    """What each kernel is compiled for on a compute capability of the tables."""
    for module in kernels().values():
        yield from module.variants(capability)
