"""The size meter: lines per file and function, options per pass. Exits 1 where a limit is passed.

Run: python benchmarks/size.py
"""

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path

FOLDERS = ("optimizer", "passes", "backends", "kernels", "models_zoo")
FILE_LIMIT = 400
FUNCTION_LIMIT = 60
OPTION_LIMIT = 8


def functions(tree: ast.AST) -> list[tuple[str, int]]:
    """Name and length of each function; docstrings do not count."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node, clean=False)
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            found.append((node.name, length - (documented.count("\n") + 1 if documented else 0)))
    return found


def options(tree: ast.AST) -> int:
    """Fields of the pass defined in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
            names = {item.target.id for item in fields if isinstance(item.target, ast.Name)}
            if "exact" in names:
                return len(names) - 1
    return 0


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    files = {
        path: path.read_text(encoding="utf-8") for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))
    }
    lengths = {path: text.count("\n") for path, text in files.items()}
    sizes = [(path, name, length) for path, text in files.items() for name, length in functions(ast.parse(text))]
    problems = [f"{p.relative_to(root)}: {n} lines, limit {FILE_LIMIT}" for p, n in lengths.items() if n > FILE_LIMIT]
    problems += [
        f"{path.relative_to(root)}: {name} has {length} lines, limit {FUNCTION_LIMIT}"
        for path, name, length in sizes
        if length > FUNCTION_LIMIT
    ]
    passes = {path: options(ast.parse(text)) for path, text in files.items() if path.parent.name == "passes"}
    problems += [
        f"{path.relative_to(root)}: {count} options, limit {OPTION_LIMIT}"
        for path, count in passes.items()
        if count > OPTION_LIMIT
    ]
    deciles = statistics.quantiles(lengths.values(), n=10)
    print(
        f"{len(files)} files, {sum(lengths.values())} lines; file median {statistics.median(lengths.values()):.0f}, "
        f"90th percentile {deciles[-1]:.0f}; function median {statistics.median(n for _, _, n in sizes):.0f}; "
        f"most options of a pass {max(passes.values(), default=0)}"
    )
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
