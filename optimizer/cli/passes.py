"""``tersor passes``: what can be done to a model."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Annotated, Any

import typer

from tersor.cli import options
from tersor.cli.output import print_json


def passes(
    name: Annotated[str | None, typer.Argument(help="One pass; all where left out.", show_default=False)] = None,
    json: options.Json = False,
) -> None:
    """List the passes with their options."""
    from tersor.spec import pass_class, pass_names

    if name is not None:
        pass_class(name)
    found = [describe(one) for one in ([name] if name else pass_names())]
    if json:
        print_json(found)
        return
    for entry in found:
        _show(entry, full=name is not None)


def describe(name: str) -> dict[str, Any]:
    """A pass as plain values: whether it is exact, what it does, its options."""
    from tersor.report.schema import attribute_docs
    from tersor.spec import pass_class

    kind = pass_class(name)
    documented = attribute_docs(kind)
    return {
        "name": name,
        "exact": bool(kind.exact),
        "description": inspect.getdoc(kind) or "",
        "options": [
            {
                "name": field.name,
                "type": field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type)),
                "default": None if field.default is dataclasses.MISSING else field.default,
                "description": documented.get(field.name, ""),
            }
            for field in (dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ())
        ],
    }


def _show(entry: dict[str, Any], *, full: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    kind = "exact" if entry["exact"] else "lossy"
    text = entry["description"] if full else entry["description"].split("\n\n")[0].replace("\n", " ")
    console.print(Text.assemble((entry["name"], "bold"), f"  {kind}"))
    console.print(Text(f"    {text}" if not full else text), highlight=False)
    for option in entry["options"]:
        described = f"  {option['description']}" if option["description"] else ""
        line = f"    {option['name']}={option['default']}  ({option['type']}){described}"
        console.print(Text(line), highlight=False)
