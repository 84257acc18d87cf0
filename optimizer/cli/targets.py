"""``tersor targets``: devices that a model can be optimized for."""

from __future__ import annotations

import dataclasses

from tersor.cli import options
from tersor.cli.output import print_json, print_table


def targets(json: options.Json = False) -> None:
    """List the devices, this machine first."""
    from tersor.target import detect, machine, named

    here = detect()
    known = [here, *(target for target in (named("cpu"), named("cuda")) if target != here)]
    if json:
        print_json({"machine": machine(), "targets": [dataclasses.asdict(target) for target in known]})
        return
    print(f"this machine: {machine()}\n")
    rows = [(target.name, target.device, str(target.threads) if target.device == "cpu" else "") for target in known]
    print_table(("target", "device", "threads"), rows, right=(2,))
