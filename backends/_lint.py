"""Findings that several backends share."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tersor.backend import Finding
from tersor.program import Program


def dtype_findings(program: Program, fatal: Mapping[str, str], slow: Mapping[str, str]) -> list[Finding]:
    """One finding per dtype that the backend lacks or is slow with, at the first node that makes such a tensor."""
    findings: dict[str, Finding] = {}
    for node in program.nodes:
        value = node.meta.get("val")
        name = str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else ""
        if name in findings or name not in {*fatal, *slow}:
            continue
        reason = fatal.get(name) or slow[name]
        findings[name] = Finding(node.name, f"{name} {reason}", "convert the model to float32", name in fatal)
    return list(findings.values())
