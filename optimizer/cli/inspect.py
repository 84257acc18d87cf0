"""``tersor inspect``: what a model is made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tersor.cli import options
from tersor.cli.output import print_json, print_table, stdout_kept

if TYPE_CHECKING:
    from tersor.program import Program


def inspect(
    model: options.Model,
    dim: options.Dims = None,
    inputs: options.Inputs = None,
    axes: Annotated[
        bool, typer.Option("--axes", help="Show which dimensions belong together, and which may be cut.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE.html", help="With --axes: draw the groups.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Count operators, parameters and work; show inputs, outputs and dynamic dimensions, or groups of axes."""
    if picture is not None:
        _check_picture(picture, axes)
    with stdout_kept():
        program = options.load(model, dim, inputs)
        found = axes_of(model, program, picture) if axes else describe(model, program)
    if json:
        print_json(found)
    elif axes:
        _show_axes(found)
    else:
        _show(found)


def _check_picture(picture: Path, axes: bool) -> None:
    from tersor.cli.output import check_folder
    from tersor.errors import UsageError

    if not axes or picture.suffix != ".html":
        raise UsageError(f"--picture is {str(picture)!r}", "give --axes too, and end the file in .html")
    check_folder(picture)


def axes_of(name: str, program: Program, picture: Path | None = None) -> dict[str, Any]:
    """Everything that ``inspect --axes`` says, as plain values; drawn into ``picture`` too where one is wanted."""
    from dataclasses import asdict

    from tersor.axes.summary import summarize
    from tersor.report.axes import page
    from tersor.report.html import write_text

    groups, unknown = summarize(program)
    if picture is not None:
        write_text(page(name, groups), picture)
    return {"model": name, "groups": [asdict(group) for group in groups], "unknown": unknown}


def _show_axes(found: dict[str, Any]) -> None:
    free = [group for group in found["groups"] if not group["pin"]]
    print(f"{found['model']}: {len(free)} of {len(found['groups'])} groups of axes may be cut\n")
    rows = [
        (
            group["name"],
            group["kind"],
            str(group["size"]),
            _short(group["members"]),
            group["pin"] or _short(group["spans"]),
        )
        for group in found["groups"]
        if group["producers"] or group["consumers"]
    ]
    print_table(("group", "kind", "size", "dimensions of weights", "pinned by, or computed over by"), rows, right=(2,))
    for node, reason in found["unknown"].items():
        print(f"\nnote: {node}: {reason}")


def _short(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


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
