"""``tersor targets``: devices that a model can be optimized for, and what this machine can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tersor.cli import options
from tersor.cli.output import print_json, print_table, stdout_kept

if TYPE_CHECKING:
    from tersor.target import Target


def targets(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Show one data sheet in full.")] = "",
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure this machine in a few seconds and keep the profile.")
    ] = False,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="With --measure: single operators in every installed runtime, a minute or two."),
    ] = False,
    json: options.Json = False,
) -> None:
    """List the devices, this machine first, with their peak rates."""
    from tersor.target import detect, known, machine, named

    here, saved = detect(), ""
    if measure or deep:
        here, saved = _measured(here, deep)
    shown = [named(name)] if name else [here, *(target for target in known().values() if target.name != here.name)]
    if json:
        print_json({"machine": machine(), "targets": [facts(target) for target in shown], "profile": saved})
        return
    if name:
        _show_one(facts(shown[0]))
        return
    print(f"this machine: {machine()}\n")
    print_table(
        ("target", "device", "threads", "float32", "float16", "int8", "2:4", "memory", "bandwidth", "source"),
        [_row(target) for target in shown],
        right=(2, 3, 4, 5, 6, 7, 8),
    )
    print("\nrates in 10^12 operations per second, dense; 2:4 says which dtypes have sparse kernels")
    if saved:
        print(f"profile written to {saved}")
    elif not here.rates:
        print("this machine is not measured yet: tersor targets --measure")


def _measured(here: Target, deep: bool) -> tuple[Target, str]:
    """This machine as it was measured, and where that is kept."""
    import dataclasses

    from tersor.targets import measure, profile

    here = measure.measure(here)
    if deep:
        from tersor.targets import deep as operators

        with stdout_kept():
            found = operators.deep(here, lambda line: typer.echo(line, err=True))
        here = operators.corrected(here, found)
        profile.save_operators(here, {name: dataclasses.asdict(one) for name, one in found.items()})
    return here, str(profile.save(here))


def facts(target: Target) -> dict[str, Any]:
    """A target as plain values, in the units of `Target`; of corrections which kinds of kernels they cover."""
    import dataclasses

    covered = {backend: sorted(fitted["kinds"]) for backend, fitted in target.corrections.items()}
    return {**dataclasses.asdict(target), "corrections": covered, "dtypes": list(target.dtypes)}


def _row(target: Target) -> tuple[str, ...]:
    rates = tuple(f"{target.rates[name] / 1e12:.3g}" if name in target.rates else "" for name in _DTYPES)
    return (
        target.name,
        target.device,
        str(target.threads) if target.device == "cpu" else "",
        *rates,
        "yes" if target.sparse else "",
        f"{target.memory / 1e9:.0f} GB" if target.memory else "",
        f"{target.bandwidth / 1e9:.0f} GB/s" if target.bandwidth else "",
        target.source,
    )


_DTYPES = ("float32", "float16", "int8")


def _show_one(sheet: dict[str, Any]) -> None:
    rates = [(f"{name}", f"{value / 1e12:.4g} Tera-operations/s") for name, value in sheet["rates"].items()]
    sparse = [(f"{name}, 2:4", f"{value / 1e12:.4g} Tera-operations/s") for name, value in sheet["sparse"].items()]
    lines = [
        ("target", sheet["name"]),
        ("product", sheet["product"]),
        ("compute capability" if sheet["device"] == "cuda" else "instructions", sheet["capability"]),
        ("multiprocessors" if sheet["device"] == "cuda" else "cores", str(sheet["units"])),
        ("highest clock", f"{sheet['clock'] / 1e6:.0f} MHz"),
        ("memory", f"{sheet['memory'] / 1e9:.0f} GB, {sheet['bandwidth'] / 1e9:.0f} GB/s"),
        ("last-level cache", f"{sheet['cache'] / 1e6:.1f} MB"),
        ("launch", f"{sheet['launch'] * 1e6:.1f} us (estimate)"),
        *rates,
        *sparse,
        ("operators measured in", ", ".join(sheet["corrections"])),
        ("source", sheet["source"]),
    ]
    print_table(("", ""), [line for line in lines if line[1]])
