"""Imports an optional package, or says which one to install."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from tersor.errors import UsageError


def optional(module: str, wanted_by: str, install: str = "") -> ModuleType:
    """The imported module. Raises UsageError where its package is not installed.

    ``install`` is the package's name for pip where it is not the module's.

    >>> optional("no_such_package.part", "this example")
    Traceback (most recent call last):
    tersor.errors.UsageError: this example needs no_such_package, which is not installed; pip install no_such_package
    """
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        name = install or package
        raise UsageError(f"{wanted_by} needs {name}, which is not installed", f"pip install {name}")
    return importlib.import_module(module)
