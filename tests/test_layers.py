"""Imports point one way: nothing below the API loads passes or backends, and passes know only the core."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

CORE = {
    f"tersor.{name}"
    for name in (
        "program", "refresh", "context", "errors", "interface", "allocation", "calibrate", "convolution", "target",
    )
}  # fmt: skip
METHODS = (
    "tersor.rewrite", "tersor.axes", "tersor.cost", "tersor.importance", "tersor.factor", "tersor.quant",
    "tersor.sparse", "tersor.tokens", "tersor.attention", "tersor.kernels",
)  # fmt: skip
"""Where the numerical methods live that passes apply."""
LOADERS = {"api", "dynamo", "spec", "backend", "cli", "__main__"}


def folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def imports(path: Path) -> set[str]:
    """Modules of ours that a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.startswith("tersor")}


@pytest.mark.parametrize("package", ["tersor.passes", "tersor.kernels"])
def test_passes_and_kernels_know_only_the_core(package: str) -> None:
    for path in folder(package).glob("*.py"):
        for name in imports(path):
            allowed = name in CORE or name.startswith((*METHODS, package))
            assert allowed, f"{path.name} imports {name}"


def test_backends_do_not_know_passes() -> None:
    for path in folder("tersor.backends").glob("*.py"):
        assert not any(name.startswith(("tersor.passes", "tersor.api", "tersor.cli")) for name in imports(path)), (
            path.name
        )


def test_only_the_api_the_command_line_and_dynamo_load_passes_and_backends() -> None:
    root = folder("tersor")
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if parts[0] in {"passes", "backends", "kernels", "models_zoo"} or parts[0].removesuffix(".py") in LOADERS:
            continue
        loaded = {name for name in imports(path) if name.startswith(("tersor.passes", "tersor.backends", "tersor.api"))}
        lazily = {
            "optimized.py": {"tersor.api"},
            "__init__.py": {"tersor.api"},
            "parts.py": {"tersor.api"},
            "planned.py": {"tersor.api"},
        }
        assert loaded <= lazily.get(parts[0], set()), f"{'/'.join(parts)} imports {loaded}"


def test_every_folder_is_packaged() -> None:
    import tomllib

    root = Path(__file__).parents[1]
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {str(path.parent.relative_to(root)) for path in (root / "optimizer").rglob("__init__.py")}
    assert folders <= set(listed["package-dir"].values())
    assert set(listed["package-dir"]) == set(listed["packages"])
