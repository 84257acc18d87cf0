"""The torch.compile backend ``tersor``: ``torch.compile(model, backend="tersor", options={"backend": "inductor"})``.

Whatever goes wrong here, the user's model runs: as the original graph, with one warning that says why.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import torch
from torch import fx

from tersor.errors import UsageError

OPTIONS = {
    "passes": None,
    "target": "cpu",
    "backend": "onnxruntime",
    "budget": 0.0,
    "recover": None,
    "seconds": 0.0,
    "shapes": 8,
    "verbose": False,
}
"""Options and their defaults. ``shapes``: how many static shapes are compiled before further ones run the original."""


class TersorWarning(UserWarning):
    """The original runs in place of an optimized graph, for the reason given."""


def backend(
    module: fx.GraphModule, example_inputs: Sequence[Any], options: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """Called by torch.compile for each graph that Dynamo captures.

    Args:
        module: Dynamo's graph; parameters and buffers are inputs of it.
        example_inputs: one value per placeholder.
        options: see `OPTIONS`; an unknown one raises UsageError, since it is the caller's mistake.

    Graphs that train (gradients are recorded and a parameter wants one) run as they are.
    """
    chosen = _options(options)
    if torch.is_grad_enabled() and any(_wants_gradient(value) for value in example_inputs):
        _warn("gradients are recorded; call the model under torch.no_grad() or torch.inference_mode()")
        return module.forward
    return CompiledGraph(module, _static_positions(module, example_inputs), list(example_inputs), chosen)


def _options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    given = dict(options or {})
    for name in given:
        if name not in OPTIONS:
            near = get_close_matches(name, OPTIONS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known options: {', '.join(OPTIONS)}"
            raise UsageError(f"torch.compile backend 'tersor' has no option {name!r}", hint)
    return {**OPTIONS, **given}


def _wants_gradient(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _static_positions(module: fx.GraphModule, example_inputs: Sequence[Any]) -> dict[int, torch.Tensor]:
    """Parameters and buffers among the inputs: Dynamo guards on the module, so they are the same on each call."""
    return {
        position: value
        for position, value in enumerate(example_inputs)
        if isinstance(value, torch.nn.Parameter) or getattr(value, "_dynamo_static_input_type", None) is not None
    }


def _warn(reason: str) -> None:
    warnings.warn(f"tersor runs the original graph: {reason}", TersorWarning, stacklevel=3)


class _Bound(torch.nn.Module):
    """Dynamo's graph with its static inputs bound, its symbolic sizes computed, called with the tensors that remain."""

    def __init__(self, module: fx.GraphModule, static: dict[int, torch.Tensor], sources: dict[int, tuple[int, int]]):
        super().__init__()
        self.inner = module
        self.sources = sources
        self.count = len(list(module.graph.find_nodes(op="placeholder")))
        self.positions = dict.fromkeys(static)
        for position, value in static.items():
            self.register_buffer(f"static_{position}", value.detach(), persistent=True)
        self.eval()

    def forward(self, inputs: list[torch.Tensor]) -> Any:
        """Flat result of the graph."""
        remaining = iter(inputs)
        values: list[Any] = [None] * self.count
        for position in range(self.count):
            if position in self.positions:
                values[position] = getattr(self, f"static_{position}")
            elif position not in self.sources:
                values[position] = next(remaining)
        for position, (owner, axis) in self.sources.items():
            values[position] = values[owner].shape[axis]
        return self.inner(*values)


@dataclass
class CompiledGraph:
    """One Dynamo graph, compiled at its first call, when no tracing context of Dynamo is active any more.

    A graph with symbolic sizes is captured with these dimensions dynamic; where that fails, each shape is compiled
    by itself, up to ``options["shapes"]`` of them. A parameter that is written to in place later is noticed by its
    version counter, and the original runs from then on.
    """

    module: fx.GraphModule
    static: dict[int, torch.Tensor]
    examples: list[Any]
    options: dict[str, Any]
    compiled: dict[Any, Callable[..., Any] | None] = field(default_factory=dict)
    dynamic_refused: bool = False
    warned: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.versions = self._versions()
        self.sources = _symbol_sources(self.module)
        self.bound = _Bound(self.module, self.static, self.sources)

    def __call__(self, *inputs: Any) -> Any:
        """The graph's outputs, in Dynamo's order."""
        if self._versions() != self.versions:
            self._say("a parameter was changed in place after compilation; call torch.compile again")
            return self.module(*inputs)
        tensors = [v for p, v in enumerate(inputs) if p not in self.static and p not in self.sources]
        if not all(isinstance(value, torch.Tensor) for value in tensors):
            self._say("an input is not a tensor")
            return self.module(*inputs)
        key = "dynamic" if self.sources and not self.dynamic_refused else tuple(tuple(t.shape) for t in tensors)
        with self.lock:
            if key not in self.compiled:
                self.compiled[key] = self._compile(key, tensors)
            call = self.compiled.get(key)
        return self.module(*inputs) if call is None else self._run(call, tensors, inputs)

    def _versions(self) -> list[int]:
        return [0 if value.is_inference() else value._version for value in self.static.values()]

    def _run(self, call: Callable[..., Any], tensors: list[torch.Tensor], inputs: Sequence[Any]) -> Any:
        try:
            return call(tensors)
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}")
            return self.module(*inputs)

    def _compile(self, key: Any, tensors: list[torch.Tensor]) -> Callable[..., Any] | None:
        if len(self.compiled) >= self.options["shapes"]:
            self._say(f"more than {self.options['shapes']} shapes; raise the option 'shapes' or mark sizes as dynamic")
            return None
        try:
            return self._optimize(tensors, dynamic=key == "dynamic")
        except Exception as error:
            if key == "dynamic":
                self.dynamic_refused = True
                self._say(f"dynamic sizes are compiled one by one: {error}")
                return self._compile(tuple(tuple(t.shape) for t in tensors), tensors)
            self._say(str(error))
            return None

    def _optimize(self, tensors: list[torch.Tensor], *, dynamic: bool) -> Callable[..., Any]:
        from tersor.api import optimize

        shapes = {"inputs": self._dynamic_shapes(tensors)} if dynamic else None
        examples = [value.detach().clone() for value in tensors]
        result = optimize(
            self.bound,
            (examples,),
            dynamic=shapes,
            passes=self.options["passes"],
            target=self.options["target"],
            backend=self.options["backend"],
            budget=self.options["budget"],
            recover=self.options["recover"],
            seconds=self.options["seconds"],
            progress=bool(self.options["verbose"]),
        )
        return lambda values: result(values)

    def _dynamic_shapes(self, tensors: list[torch.Tensor]) -> list[dict[int, Any]]:
        """Every axis whose size Dynamo holds symbolic."""
        placeholders = list(self.module.graph.find_nodes(op="placeholder"))
        rest = [n for p, n in enumerate(placeholders) if p not in self.static and p not in self.sources]
        auto = torch.export.Dim.AUTO
        return [
            {axis: auto for axis, size in enumerate(node.meta["example_value"].shape) if isinstance(size, torch.SymInt)}
            for node in rest
        ]

    def _say(self, reason: str) -> None:
        if reason not in self.warned:
            self.warned.add(reason)
            _warn(reason)


def _symbol_sources(module: fx.GraphModule) -> dict[int, tuple[int, int]]:
    """For each placeholder that is a symbolic size: the placeholder and axis it can be read from."""
    placeholders = list(module.graph.find_nodes(op="placeholder"))
    values = [node.meta.get("example_value") for node in placeholders]
    sources: dict[int, tuple[int, int]] = {}
    for position, value in enumerate(values):
        if not isinstance(value, torch.SymInt):
            continue
        for owner, tensor in enumerate(values):
            if isinstance(tensor, torch.Tensor):
                axes = [a for a, size in enumerate(tensor.shape) if str(size) == str(value)]
                if axes:
                    sources[position] = (owner, axes[0])
                    break
    return sources
