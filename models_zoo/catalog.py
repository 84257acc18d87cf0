"""Finds models by name: ``zoo:digits-vit``, ``timm:resnet18``, ``torchvision:resnet18``, ``hf:bert``."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import nn

from tersor.errors import UsageError

# The module behind each prefix has ``names()`` and ``fields(name, seed, ...)``, and imports its package lazily.
SOURCES = {"zoo": "own", "hf": "hf", "timm": "timm_models", "torchvision": "torchvision_models"}


@dataclass(frozen=True)
class ZooEntry:
    """A model and what is needed to run, export and judge it.

    ``inputs`` are example inputs at batch 2: a tuple of positional arguments or a dict of named ones. ``dynamic`` is
    the matching ``dynamic_shapes`` of ``torch.export.export``, or None where only fixed shapes are known to work.
    ``evaluator`` takes a callable like ``model`` and returns an accuracy, higher is better. ``calibration`` holds
    unlabelled inputs in the form of ``inputs``.
    """

    name: str
    model: nn.Module
    inputs: tuple[Any, ...] | dict[str, Any]
    dynamic: Any = None
    evaluator: Callable[[Callable[..., Any]], float] | None = None
    calibration: Iterable[tuple[Any, ...] | dict[str, Any]] = ()
    description: str = ""

    def call(self, model: Callable[..., Any] | None = None) -> Any:
        """The output of ``model``, by default the entry's own, for the example inputs."""
        function = self.model if model is None else model
        return function(**self.inputs) if isinstance(self.inputs, dict) else function(*self.inputs)


def names(source: str = "") -> list[str]:
    """Every name of one source, for example ``names("timm")``, or of those with a fixed list: ``zoo`` and ``hf``.

    >>> names("zoo")[:3]
    ['zoo:digits-cnn', 'zoo:digits-mobile', 'zoo:digits-vit']
    """
    if source and source not in SOURCES:
        raise UsageError(f"unknown model source {source!r}", f"choose one of {', '.join(SOURCES)}")
    chosen = (source,) if source else ("zoo", "hf")
    return [f"{prefix}:{name}" for prefix in chosen for name in _room(prefix).names()]


def load(name: str, *, seed: int = 0, **options: Any) -> ZooEntry:
    """The named model in evaluation mode; its random weights and example inputs are the same for the same seed.

    A ``zoo:`` model has its trained weights where the project ships some; all others have random weights, and nothing
    is ever downloaded. ``options`` go to the source: ``attention="eager"`` for ``hf:``, keyword arguments of the
    constructor for ``timm:`` and ``torchvision:``. Raises UsageError for an unknown name, with the nearest known ones,
    and where the source's package is missing.

    >>> entry = load("zoo:digits-vit")
    >>> entry.call().shape
    torch.Size([2, 10])
    """
    prefix, separator, rest = name.partition(":")
    if not separator or prefix not in SOURCES:
        raise _unknown(name, names())
    room = _room(prefix)
    if rest not in room.names():
        raise _unknown(name, names(prefix))
    return ZooEntry(name=name, **room.fields(rest, seed, **options))


def _room(prefix: str) -> ModuleType:
    return importlib.import_module(f"tersor.models_zoo.{SOURCES[prefix]}")


def _unknown(name: str, known: list[str]) -> UsageError:
    short = {entry.partition(":")[2]: entry for entry in known}
    nearest = difflib.get_close_matches(name, known, n=3)
    if not nearest:
        bare = name.rpartition(":")[2].replace("_", "-")
        nearest = [short[match] for match in difflib.get_close_matches(bare, list(short), n=3)]
    remedy = "" if name.partition(":")[0] in SOURCES else "give zoo:NAME, hf:CONFIG, timm:NAME or torchvision:NAME. "
    remedy += f"Did you mean {', '.join(nearest)}?" if nearest else ""
    return UsageError(f"unknown model {name!r}", remedy.strip() or "tersor.models_zoo.names() lists what there is")
