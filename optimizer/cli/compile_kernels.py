"""``tersor compile-kernels``: the project's Triton kernels as machine code, on a machine without a GPU."""

from __future__ import annotations

import json as _json
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tersor.cli import options
from tersor.cli.output import check_folder, print_json, print_table, stdout_kept

if TYPE_CHECKING:
    from tersor.kernels.ahead_of_time import Variant


def compile_kernels(
    target: Annotated[
        str, typer.Option("--target", metavar="NAME", help="sm_80, sm_90, or a device of 'tersor targets'.")
    ] = "sm_90",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder for .cubin files and resources.json.")
    ] = None,
    kernel: Annotated[
        list[str] | None, typer.Option("--kernel", metavar="NAME", help="Only this kernel. Repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("-f", "--force", help="Replace files of an earlier run.")] = False,
    json: options.Json = False,
) -> None:
    """Compile every kernel for a GPU that need not be here, and list registers, spills and shared memory."""
    capability, names = capability_of(target), chosen(kernel)
    if output is not None:
        _check(output, force)
    with stdout_kept():
        found = [compiled(variant, capability, output) for variant in _variants(names, capability)]
    if output is not None:
        path = output / "resources.json"
        temporary = path.with_name(".resources.json.partial")
        temporary.write_text(_json.dumps({"target": f"sm_{capability}", "kernels": found}, indent=1), encoding="utf-8")
        temporary.replace(path)
    if json:
        print_json({"target": f"sm_{capability}", "kernels": found})
        return
    columns = ("kernel", "registers", "spills", "shared", "instructions")
    rows = [(f"{row['kernel']}: {row['for']}", *(str(row[name]) for name in columns[1:])) for row in found]
    print_table(columns, rows, right=(1, 2, 3, 4))
    if output is not None:
        print(f"\n{len(found)} .cubin files and resources.json written to {output}")


def capability_of(name: str) -> int:
    """80 or 90 from ``"sm_90"`` or a device's name; raises UsageError where no kernel is made for it.

    >>> capability_of("sm_90"), capability_of("a100-80")
    (90, 80)
    """
    from tersor.errors import UsageError
    from tersor.kernels.language import CAPABILITIES, nearest
    from tersor.target import named

    digits = name.lower().removeprefix("sm_").removeprefix("sm")
    if digits.isdecimal():
        wanted = int(digits)
    else:
        major, _, minor = named(name).capability.partition(".")
        wanted = 10 * int(major) + int(minor or 0) if major.isdecimal() else 0
    if wanted < CAPABILITIES[0]:
        known = ", ".join(f"sm_{item}" for item in CAPABILITIES)
        raise UsageError(
            f"no kernels are made for target {name!r}", f"choose one of {known}, or a device from Ampere on"
        )
    return nearest(wanted)


def chosen(names: list[str] | None) -> list[str]:
    """The kernels to compile; raises UsageError with the nearest name."""
    from tersor.errors import UsageError
    from tersor.kernels.catalogue import kernels

    known = list(kernels())
    for name in names or ():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise UsageError(
                f"there is no kernel {name!r}", f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            )
    return names or known


def _check(folder: Path, force: bool) -> None:
    """Make the folder; raises OutputError where it cannot be, or holds an earlier run."""
    from tersor.errors import OutputError

    check_folder(folder.absolute())
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{str(folder)!r} is a file", "give a folder")
    folder.mkdir(exist_ok=True)
    if (folder / "resources.json").exists() and not force:
        raise OutputError(f"{str(folder)!r} holds an earlier run", "choose another folder, or give --force")


def _variants(names: list[str], capability: int) -> Iterator[Variant]:
    from tersor.kernels.catalogue import kernels

    for name in names:
        yield from kernels()[name].variants(capability)


def compiled(variant: Variant, capability: int, folder: Path | None) -> dict[str, Any]:
    """Compile one variant, write its machine code, and say what it uses."""
    code = variant.compile(capability)
    name = "-".join([variant.name, *variant.text.replace(",", "").split(), f"sm_{capability}"]) + ".cubin"
    if folder is not None:
        temporary = folder / f".{name}.partial"
        temporary.write_bytes(code.cubin)
        temporary.replace(folder / name)
    return {
        "kernel": variant.name, "for": variant.text, "file": name if folder is not None else "",
        "entry": code.entry, "registers": code.registers, "spills": code.spills, "stack": code.stack,
        "shared": code.shared, "warps": code.warps, "stages": variant.tile.stages, "blocks": dict(variant.tile.blocks),
        "constants": {key: value for key, value in variant.constants.items() if isinstance(value, int | bool)},
        "instructions": code.total,
    }  # fmt: skip
