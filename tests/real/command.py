"""Runs `tersor optimize` as a user does: another process, a file in, a file out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FAST = ("--backend", "onnxruntime", "--seconds", "0")


@dataclass(frozen=True)
class Done:
    """The file that was written, and the report of how."""

    path: Path
    report: dict[str, Any]

    @property
    def verbatim(self) -> str:
        """Why the file is the original, unchanged; empty where it was rewritten."""
        kept = [note for note in self.report["notes"] if "kept as it is" in note or "is the original" in note]
        return "; ".join(kept)

    @property
    def dropped(self) -> str:
        """The passes that were dropped, and why."""
        return "; ".join(f"{s['spec']}: {s['reason']}" for s in self.report["steps"] if s["status"] == "dropped")


def optimize(source: Path | str, output: Path, *options: str, timeout: float = 900) -> Done:
    """The optimized file; raises RuntimeError with the command's own words where it fails."""
    command = [sys.executable, "-m", "tersor", "optimize", str(source), "-o", str(output), "--json", "--force"]
    done = subprocess.run(
        [*command, *FAST, *options],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing was said"]
        raise RuntimeError(f"exit code {done.returncode}: {said[-1]}")
    return Done(output, json.loads(done.stdout))
