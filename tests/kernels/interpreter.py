"""Runs a module of cases in a process where Triton interprets kernels, which it decides when it is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def interpreted(module: str, *arguments: str) -> list[dict[str, Any]]:
    """The rows that ``python -m module`` prints, one JSON object on each line; skips without Triton."""
    pytest.importorskip("triton", reason="Triton is not installed: it has wheels for Linux only")
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
