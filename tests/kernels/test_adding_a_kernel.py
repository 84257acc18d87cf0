"""The example in docs/adding-a-kernel.md works as it stands: operator, interpreter, machine code."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "adding-a-kernel.md"

INTERPRETED = """
import torch
from example_kernel import launch, reference
for count in (1, 37, 1031, 0):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = torch.randn(count, generator=torch.Generator().manual_seed(count)).to(dtype)
        torch.testing.assert_close(launch(x), reference(x))
print("same")
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    source = re.search(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert source is not None
    path = tmp_path_factory.mktemp("guide") / "example_kernel.py"  # Triton reads a kernel's source from its file
    path.write_text(source[1], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def example(written: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_kernel", written)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_operator_keeps_its_promises(example: ModuleType) -> None:
    assert set(torch.library.opcheck(example.relu_squared, (torch.randn(3, 5),)).values()) == {"SUCCESS"}
    assert example.work(8, torch.float16).bytes == 32


def test_the_kernel_is_its_reference(written: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: it has wheels for Linux only")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(written.parent)}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout == "same\n", done.stderr


def test_it_compiles_without_spills(example: ModuleType) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: it has wheels for Linux only")
    (variant,) = example.variants(90)
    code = variant.compile(90)
    assert code.spills == 0 and code.entry == "kernel"
