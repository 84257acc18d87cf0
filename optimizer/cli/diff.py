"""``tersor diff``: what differs between two models, in interface, operators and numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tersor.cli import options
from tersor.cli.output import print_json, print_table, stdout_kept

if TYPE_CHECKING:
    from tersor.program import Program
    from tersor.report.model import Parity


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help=options.MODEL_HELP, show_default=False)],
    second: Annotated[str, typer.Argument(metavar="B", help="The model to compare with A.", show_default=False)],
    dim: options.Dims = None,
    inputs: options.Inputs = None,
    json: options.Json = False,
) -> int:
    """Compare two models; the exit code is 7 where outputs or interface differ."""
    with stdout_kept():
        found = compare(options.load(first, dim, inputs), options.load(second, dim, inputs))
    found = {"a": first, "b": second, **found}
    if json:
        print_json(found)
    else:
        _show(found)
    return 0 if found["same"] else _differs()


def compare(a: Program, b: Program) -> dict[str, Any]:
    """Differences of two programs as plain values; ``same`` is whether interface and numbers agree."""
    from tersor.facts import facts

    counted_a, counted_b = facts(a), facts(b)
    interface = [
        *_ports("input", counted_a.inputs, counted_b.inputs),
        *_ports("output", counted_a.outputs, counted_b.outputs),
    ]
    parity, problem = _numbers(a, b)
    names = sorted({**counted_a.operators, **counted_b.operators})
    operators = {name: [counted_a.operators.get(name, 0), counted_b.operators.get(name, 0)] for name in names}
    return {
        "same": not interface and not problem and all(check.passed for check in parity),
        "interface": interface,
        "operators": {name: counts for name, counts in operators.items() if counts[0] != counts[1]},
        "parameters": [counted_a.parameters, counted_b.parameters],
        "flops": [counted_a.flops, counted_b.flops],
        "numbers": [dataclasses.asdict(check) for check in parity],
        "problem": problem,
    }


def _differs() -> int:
    from tersor.errors import ParityError

    return ParityError.exit_code


def _ports(kind: str, a: list[dict[str, str]], b: list[dict[str, str]]) -> list[str]:
    """One line per difference of name, order, dtype or shape."""
    lines = []
    if len(a) != len(b):
        lines.append(f"A has {len(a)} {kind}s, B has {len(b)}")
    for position, (one, other) in enumerate(zip(a, b, strict=False)):
        for what in ("name", "dtype", "shape"):
            if one[what] != other[what]:
                lines.append(f"{kind} {position}: {what} {one[what]} in A, {other[what]} in B")
    return lines


def _numbers(a: Program, b: Program) -> tuple[list[Parity], str]:
    """Checks at several sizes of every dynamic dimension, and why there are none."""
    from tersor.pipeline import Reference

    order_in = _order(a.interface.input_names, b.interface.input_names)
    order_out = _order(b.interface.output_names, a.interface.output_names)
    if order_in is None or order_out is None:
        return [], "the numbers of inputs or outputs differ, so nothing was run"
    return Reference.of(a).judge("B against A", _reordered(b, order_in, order_out)), ""


def _order(have: tuple[str, ...], want: tuple[str, ...]) -> list[int] | None:
    """For each wanted name its place among those there are; by position where the names differ."""
    if len(have) != len(want):
        return None
    return [have.index(name) for name in want] if set(have) == set(want) else list(range(len(want)))


def _reordered(program: Program, order_in: list[int], order_out: list[int]) -> Callable[..., Any]:
    def run(*inputs: Any) -> Any:
        outputs = program.run([inputs[position] for position in order_in])
        return tuple(outputs[position] for position in order_out)

    return run


def _show(found: dict[str, Any]) -> None:
    from tersor.report.summary import count, difference

    print(f"A {found['a']}\nB {found['b']}\n")
    print("interface: " + ("the same" if not found["interface"] else ""))
    for line in found["interface"]:
        print(f"  {line}")
    print()
    rows = [(name, str(a), str(b)) for name, (a, b) in found["operators"].items()]
    for what in ("parameters", "flops"):
        a, b = found[what]
        rows += [(what, count(a), count(b))] if a != b else []
    if rows:
        print_table(("", "A", "B"), rows, right=(1, 2))
    else:
        print("operators, parameters and work: the same")
    print()
    if found["problem"]:
        print(found["problem"])
    _show_numbers(found["numbers"], difference)


def _show_numbers(checks: list[dict[str, Any]], text: Callable[[float], str]) -> None:
    rows = []
    for check in checks:
        at = ", ".join(f"{name}={size}" for name, size in check["binding"].items()) or "as given"
        for name, row in check["outputs"].items():
            agrees = "agrees" if row["excess"] <= 1 else "differs"
            rows.append((at, name, text(row["absolute"]), text(row["relative"]), text(row["allowed"]), agrees))
        if not check["outputs"]:
            rows.append((at, check["what"], "", "", "", "fails"))
    if rows:
        print_table(("sizes", "output", "difference", "relative", "allowed", ""), rows, right=(2, 3, 4))
