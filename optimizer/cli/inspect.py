"""``tersor inspect``: what a model is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tersor.cli import options
from tersor.cli.output import print_json, print_table, stdout_kept

if TYPE_CHECKING:
    from tersor.program import Program


def inspect(
    model: options.Model, dim: options.Dims = None, inputs: options.Inputs = None, json: options.Json = False
) -> None:
    """Count operators, parameters and work; show inputs, outputs and dynamic dimensions."""
    with stdout_kept():
        found = describe(model, options.load(model, dim, inputs))
    if json:
        print_json(found)
    else:
        _show(found)


def describe(name: str, program: Program) -> dict[str, Any]:
    """Everything that ``inspect`` says, as plain values."""
    from tersor.facts import facts

    counted = facts(program)
    return {
        "model": name,
        "operators": counted.operators,
        "parameters": counted.parameters,
        "parameter_bytes": counted.parameter_bytes,
        "flops": counted.flops,
        "elementwise": counted.elementwise,
        "uncounted": counted.uncounted,
        "inputs": counted.inputs,
        "outputs": counted.outputs,
        "dimensions": [
            {"name": d.name, "example": d.hint, "minimum": d.minimum, "maximum": d.maximum}
            for d in program.dimensions.values()
        ],
        "opaque": _opaque(program),
        "notes": list(program.notes),
    }


def _opaque(program: Program) -> list[dict[str, str]]:
    found = []
    for entry in program.opaque.values():
        types = ", ".join(dict.fromkeys(node.op_type for node in entry.nodes))
        names = ", ".join(filter(None, (node.name for node in entry.nodes))) or ", ".join(entry.outputs)
        found.append({"operators": types, "nodes": names, "reason": entry.reason})
    return found


def _show(found: dict[str, Any]) -> None:
    from tersor.report.summary import count

    print(found["model"])
    print_table(
        ("", ""),
        [
            ("operators", str(sum(found["operators"].values()))),
            ("parameters", f"{count(found['parameters'])}, {count(found['parameter_bytes'], 'B')}"),
            ("work", f"{count(found['flops'], 'FLOP')} in products (a multiply-add is two)"),
            ("", f"{count(found['elementwise'])} elements in everything else"),
            *([("not counted", f"{found['uncounted']} nodes of unknown work")] if found["uncounted"] else []),
        ],
    )
    _ports(found)
    print()
    print_table(("operator", "count"), [(name, str(times)) for name, times in found["operators"].items()], right=(1,))
    for entry in found["opaque"]:
        print(f"\nopaque {entry['operators']} ({entry['nodes']}): {entry['reason']}")
    for note in found["notes"]:
        print(f"\nnote: {note}")


def _ports(found: dict[str, Any]) -> None:
    ports = [(kind, port) for kind in ("inputs", "outputs") for port in found[kind]]
    print()
    rows = [(kind[:-1], port["name"], port["dtype"], port["shape"]) for kind, port in ports]
    print_table(("", "name", "dtype", "shape"), rows)
    if found["dimensions"]:
        print()
        sizes = [(d["name"], str(d["example"]), _bounds(d)) for d in found["dimensions"]]
        print_table(("dynamic dimension", "example", "allowed"), sizes, right=(1,))


def _bounds(dimension: dict[str, Any]) -> str:
    return f"{dimension['minimum']} to {dimension['maximum'] or 'any'}"
