"""Pipelines as text: ``"canonicalize,prune-channels{ratio=0.3}"`` to pass objects and back."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
import types
import typing
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from tersor.context import Pass
from tersor.errors import UsageError

_ITEM = re.compile(r"\s*(?P<name>[A-Za-z0-9_-]+)\s*(?:\{(?P<options>[^{}]*)\})?\s*(?:,|$)")
_WORDS = {"true": True, "yes": True, "false": False, "no": False}


def pass_names() -> list[str]:
    """Names of all passes: file names with dashes."""
    package = importlib.import_module("tersor.passes")
    modules = (module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg)
    return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))


def pass_class(name: str) -> type[Any]:
    """The dataclass of a pass; raises UsageError with the nearest name."""
    names = pass_names()
    if name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known passes: {', '.join(names)}"
        raise UsageError(f"unknown pass {name!r}", hint)
    module = importlib.import_module(f"tersor.passes.{name.replace('-', '_')}")
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__ and hasattr(value, "exact"):
            return value
    raise UsageError(f"pass file {name!r} holds no pass", "define one frozen dataclass with an `exact` class variable")


def parse(text: str | Iterable[Any]) -> tuple[Pass, ...]:
    """Pass objects from a specification, or from a mix of names and objects.

    >>> parse("dead-code") == parse(["dead-code"])
    True
    """
    if not isinstance(text, str):
        return tuple(p for item in text for p in (parse(item) if isinstance(item, str) else (_checked(item),)))
    passes: list[Pass] = []
    position = 0
    while position < len(text) and text[position:].strip():
        match = _ITEM.match(text, position)
        if match is None:
            raise UsageError(
                f"cannot read the pipeline at {text[position : position + 20]!r}",
                'write it as "name,name{option=value;option=value}"',
            )
        passes.append(_build(match["name"], match["options"] or ""))
        position = match.end()
    return tuple(passes)


def _checked(item: Any) -> Pass:
    if not isinstance(item, Pass):
        raise UsageError(f"{item!r} is not a pass", "give a name, or an object with `exact` and a call")
    return item


def _build(name: str, options: str) -> Pass:
    kind = pass_class(name)
    try:
        built: Pass = kind(**option_values(kind, options, "pass", name))
    except (TypeError, ValueError) as error:
        raise UsageError(f"pass {name!r} refuses its options: {error}") from None
    return built


def option_values(kind: type[Any], options: str, noun: str, name: str, hidden: Sequence[str] = ()) -> dict[str, Any]:
    """Fields of a dataclass from ``"option=value;option=value"``; raises UsageError with the nearest option.

    Args:
        kind: the dataclass.
        options: the text between the braces.
        noun, name: whose options they are, for messages.
        hidden: fields that are no options.
    """
    fields = [field.name for field in dataclasses.fields(kind) if field.name not in hidden]
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for option in filter(None, (part.strip() for part in re.split(r"[;,]", options))):
        key, equals, value = option.partition("=")
        key = key.strip().replace("-", "_")
        if key not in fields or not equals:
            near = get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"its options: {', '.join(fields) or 'none'}"
            raise UsageError(f"{noun} {name!r} has no option {option!r}", hint)
        values[key] = _convert(f"{name}.{key}", value.strip(), hints[key])
    return values


def _convert(where: str, text: str, hint: Any) -> Any:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if text.lower() == "none" and type(None) in kinds:
        return None
    if bool in kinds and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float, str):
        if kind in kinds:
            try:
                return float(text[:-1]) / 100 if kind is float and text.endswith("%") else kind(text)
            except ValueError:
                continue
    for kind in kinds:
        if typing.get_origin(kind) is typing.Literal and text in typing.get_args(kind):
            return text
    raise UsageError(f"option {where} is {text!r}", f"wanted {hint}")


def render(passes: Sequence[Pass]) -> str:
    """The text form of a pipeline; ``parse(render(p)) == p``."""
    return ",".join(render_one(item) for item in passes)


def render_one(item: Pass) -> str:
    """The text form of one pass, with the options that differ from their defaults."""
    module = type(item).__module__
    ours = module.startswith("tersor.passes.")
    name = module.rpartition(".")[2].replace("_", "-") if ours else _dashed(type(item).__name__)
    if not dataclasses.is_dataclass(item):
        return name
    shown = [
        f"{f.name}={getattr(item, f.name)}" for f in dataclasses.fields(item) if getattr(item, f.name) != f.default
    ]
    return f"{name}{{{';'.join(shown)}}}" if shown else name


def _dashed(name: str) -> str:
    """A pass from elsewhere goes by its class name: ``FoldBatchNorm`` is ``fold-batch-norm``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
