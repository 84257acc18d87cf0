"""Examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import tersor

SKIPPED = ("tersor.__main__",)


def modules() -> list[str]:
    packages = ["tersor", "tersor.passes", "tersor.backends", "tersor.kernels", "tersor.models_zoo"]
    found: set[str] = set()
    for name in packages:
        package = importlib.import_module(name)
        found.update(module.name for module in pkgutil.walk_packages(package.__path__, f"{name}."))
    return sorted(name for name in found if name not in SKIPPED)


@pytest.mark.parametrize("name", modules())
def test_examples(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_the_public_names_are_there() -> None:
    for name in tersor.__all__:
        assert getattr(tersor, name) is not None
