"""Reads lists of TensorRT's names and signatures, in the form of ``reference/tensorrt_11_api.txt``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "tensorrt_11_api.txt"

_DEF = re.compile(r"def (\w+)\((.*)\)(?: -> (.+))?$")
_ALIASES = {
    "nvonnxparser::IParserError": "ParserError",
    "nvinfer1::ICudaEngine": "ICudaEngine",
    "nvinfer1::IBuilder": "Builder",
    "typing.SupportsInt": "int",
    "typing.SupportsFloat": "float",
    "typing_extensions.Buffer": "bytes",
    "None": "",
}
"""Types by a shorter name."""


@dataclass(frozen=True)
class Parameter:
    name: str
    annotation: str
    optional: bool


@dataclass(frozen=True)
class Signature:
    """One overload; ``self`` is left out."""

    parameters: tuple[Parameter, ...]
    returns: str

    def objection(self, count: int, keywords: list[str]) -> str:
        """Why a call with so many positional arguments and these keywords does not fit; empty where it does."""
        names = [parameter.name for parameter in self.parameters]
        if count > len(names):
            return f"takes {len(names)} arguments, got {count}"
        given = [*names[:count], *keywords]
        unknown = [name for name in keywords if name not in names]
        missing = [item.name for item in self.parameters if not item.optional and item.name not in given]
        if unknown or missing or len(set(given)) != len(given):
            return f"unknown {unknown}, missing {missing}, given {given}"
        return ""


@dataclass
class Kind:
    """A class: methods by name, attributes with their types, members of an enumeration."""

    name: str
    bases: tuple[str, ...]
    methods: dict[str, list[Signature]] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    read_only: set[str] = field(default_factory=set)
    members: tuple[str, ...] = ()


Kinds = dict[str, Kind]


def parse(text: str) -> Kinds:
    kinds: Kinds = {}
    current: Kind | None = None
    for line in text.splitlines():
        if line.startswith("class "):
            name, _, bases = line.removeprefix("class ").rstrip(":").partition("(")
            current = Kind(name, tuple(filter(None, bases.rstrip(")").split(", "))))
            kinds[name] = current
        elif line.startswith("    ") and current is not None:
            _line(current, line.strip())
        elif line.strip():
            current = None
    return kinds


def _line(kind: Kind, line: str) -> None:
    if line.startswith("members:"):
        kind.members = tuple(line.removeprefix("members:").strip().split(", "))
    elif match := _DEF.match(line):
        kind.methods.setdefault(match[1], []).append(_signature(match[2], match[3] or ""))
    elif re.fullmatch(r"[A-Z_]+", line):
        kind.attributes[line] = "constant"
    elif ": " in line and not line.startswith("def "):
        name, _, rest = line.partition(": ")
        kind.attributes[name] = plain(rest.partition("  #")[0])
        if "# read-only" in rest:
            kind.read_only.add(name)


def _signature(text: str, returns: str) -> Signature:
    if text == "...":
        return Signature((), plain(returns))
    parts = [part for part in _split(text) if not part.startswith("self:")]
    return Signature(tuple(_parameter(part) for part in parts), plain(returns))


def _parameter(text: str) -> Parameter:
    name, _, rest = text.partition(": ")
    annotation, equals, _ = rest.partition(" = ")
    return Parameter(name, plain(annotation), bool(equals))


def _split(text: str) -> list[str]:
    """At commas outside of brackets."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter in "[(<") - (letter in "])" or (letter == ">" and text[index - 1] != "-"))
        if letter == "," and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    return [*parts, text[start:].strip()] if text.strip() else []


def plain(annotation: str) -> str:
    """A class by its bare name."""
    text = annotation.strip().replace("tensorrt.", "")
    return _ALIASES.get(text, text.removeprefix("nvinfer1::"))


def lookup(kinds: Kinds, name: str, attribute: str) -> tuple[str, list[Signature] | str] | None:
    """What an attribute of a class is, the bases included: methods, or an attribute with its type."""
    kind = kinds.get(name)
    if kind is None:
        return None
    if attribute in kind.methods:
        return "method", kind.methods[attribute]
    if attribute in kind.members:
        return "member", name
    if attribute in kind.attributes:
        return "attribute", kind.attributes[attribute]
    for base in kind.bases:
        found = lookup(kinds, base, attribute)
        if found is not None:
            return found
    return None
