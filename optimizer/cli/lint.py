"""``tersor lint``: what a runtime would reject or run slowly, and the fix, without that runtime or its device."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from tersor.cli import options
from tersor.cli.output import print_json, print_table, stdout_kept


def lint(
    model: options.Model,
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            metavar="NAME",
            autocompletion=options._complete_backend,
            help="Runtime, with options in braces where it has any; see 'tersor backends'.",
        ),
    ] = "tensorrt",
    target: Annotated[
        str, typer.Option("--target", metavar="NAME", help="Device; default: one that the runtime is made for.")
    ] = "",
    dim: options.Dims = None,
    inputs: options.Inputs = None,
    json: options.Json = False,
) -> int:
    """Say what a runtime would reject or run slowly; the exit code is 8 where it would reject the model."""
    from tersor.backend import find_backend
    from tersor.errors import BackendError
    from tersor.target import named

    found = find_backend(backend)
    device = named(target or getattr(found, "devices", ("cpu",))[0])
    with stdout_kept():
        findings = [asdict(finding) for finding in found.lint(options.load(model, dim, inputs), device)]
    if json:
        print_json({"model": model, "backend": backend, "target": device.name, "findings": findings})
    else:
        _show(model, f"{backend} on {device.product or device.name}", findings)
    return BackendError.exit_code if any(finding["fatal"] for finding in findings) else 0


def _show(model: str, where: str, findings: list[dict[str, Any]]) -> None:
    rejected = sum(finding["fatal"] for finding in findings)
    verdict = f"rejected, for {rejected} reasons" if rejected else "accepted, as far as is known"
    print(f"{model}, {where}: {verdict}{f'; {len(findings) - rejected} remarks' if len(findings) > rejected else ''}")
    if not findings:
        return
    print()
    rows = [
        ("rejects" if finding["fatal"] else "slow", finding["node"], finding["problem"], finding["remedy"])
        for finding in findings
    ]
    print_table(("", "at", "what", "what to do"), rows)
