"""A program whose tokens fade instead of going, so that how many should go at each layer has a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from tersor.cost.flops import flops, program_flops
from tersor.errors import RewriteError
from tersor.factor.observe import observe
from tersor.interface import Flat
from tersor.program import Program
from tersor.rewrite_values import arguments, key
from tersor.tokens.attend import scale_of, visible
from tersor.tokens.attention import of_first, of_last, probabilities, received
from tersor.tokens.bipartite import similarities
from tersor.tokens.cuts import Layer
from tersor.tokens.learned import Course, kept_softly, learn, ranked
from tersor.tokens.step import Method

FADED = 1e-6


def learned_rates(
    program: Program, layers: Sequence[Layer], method: Method, share: float, inputs: Sequence[Flat], course: Course
) -> list[float]:
    """The share of tokens to remove at each layer, for the work that ``share`` gone evenly would leave.

    The error is the squared difference of the outputs, relative to their spread, on one calibration input per step.
    """
    total = program_flops(program).products
    square = sum(flops(node) or 0 for node in program.nodes if key(node) == "scaled_dot_product_attention")
    curve = square / max(total, 1)

    def work(left: Tensor) -> Tensor:
        here = torch.cat([torch.ones_like(left[:1]), left[:-1]])
        linear = (here.mean() + 2 * left.mean()) / 3
        return (1 - curve) * linear + curve * here.square().mean()

    evenly = torch.linspace(1.0, 1.0 - share, len(layers) + 1)[1:]
    wanted = [program.run(flat) for flat in inputs]

    def error(chances: Tensor, step: int) -> Tensor:
        place = step % len(inputs)
        got = Fading(program, layers, method, chances).run(*inputs[place])
        return _error(wanted[place], got)

    return learn(error, len(layers), work, float(work(evenly)), course)


def attention_received(program: Program, layers: Sequence[Layer], inputs: Sequence[Flat]) -> list[Tensor]:
    """What each token receives at each layer, [N, T] over all inputs; RewriteError where T differs between them."""
    found: dict[str, list[Tensor]] = {layer.attention.name: [] for layer in layers}

    def hook(layer: Layer) -> Callable[[Sequence[Any], Any], None]:
        def look(args: Sequence[Any], result: Any) -> None:
            mask, is_causal = args[3] if len(args) > 3 else None, bool(arguments(layer.attention)["is_causal"])
            weights = probabilities(args[0], args[1], scale_of(layer.attention), mask, is_causal)
            found[layer.attention.name].append(received(weights))

        return look

    observe(program, inputs or (program.inputs,), {layer.attention.name: hook(layer) for layer in layers})
    if len({value.shape[1] for values in found.values() for value in values}) > 1:
        raise RewriteError("calibration inputs have different numbers of tokens", "a threshold needs equal ones")
    return [torch.cat(values) for values in found.values()]


def _error(wanted: Flat, got: Sequence[Tensor]) -> Tensor:
    parts = [
        (a - b).square().sum() / (a - a.mean(0, keepdim=True)).square().sum().clamp(min=1e-12)
        for a, b in zip(wanted, got, strict=True)
        if a.is_floating_point()
    ]
    return torch.stack(parts).mean()


class Fading(fx.Interpreter):
    """Runs a program whose attention weighs keys by how likely they are still there."""

    def __init__(self, program: Program, layers: Sequence[Layer], method: Method, chances: Tensor) -> None:
        super().__init__(program.module(), garbage_collect_values=True)
        self.layers = {layer.attention.name: (place, layer) for place, layer in enumerate(layers)}
        self.method, self.chances = method, chances
        self.alive: Tensor | None = None

    def run_node(self, n: fx.Node) -> Any:
        """Attention weighs its keys; everything else is as it was."""
        if n.name not in self.layers:
            return super().run_node(n)
        place, layer = self.layers[n.name]
        given = {name: self._value(item) for name, item in arguments(layer.attention).items()}
        result = self._attend(given)
        score = _removal(self.method, layer, given, self.alive)
        alive = torch.ones_like(score) if self.alive is None else self.alive
        self.alive = alive * kept_softly(ranked(score, alive.detach()), self.chances[place])
        return result

    def _value(self, item: Any) -> Any:
        if not isinstance(item, fx.Node):
            return item
        return next(value for node, value in self.env.items() if node.name == item.name)

    def _attend(self, given: dict[str, Any]) -> Tensor:
        bias = self._bias(given)
        return torch.nn.functional.scaled_dot_product_attention(
            given["query"], given["key"], given["value"], bias, 0.0, given["is_causal"] and bias is None,
            scale=given["scale"], enable_gqa=given["enable_gqa"],
        )  # fmt: skip

    def _bias(self, given: dict[str, Any]) -> Tensor | None:
        mask: Tensor | None = given["attn_mask"]
        if self.alive is None:
            return mask
        faded = self.alive.clamp(min=FADED).log()[:, None, None]
        if mask is None:
            return faded
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=faded.dtype).masked_fill(~mask, torch.finfo(faded.dtype).min)
        return mask + faded


def _removal(method: Method, layer: Layer, given: dict[str, Any], alive: Tensor | None) -> Tensor:
    """[B, T]: what goes first has the lowest score; infinite for what stays."""
    with torch.no_grad():
        score = _worth(method, layer, given)
    place = torch.arange(score.shape[1], device=score.device)
    stays = (place < layer.tokens.first) | (place >= score.shape[1] - layer.tokens.last)
    return score.masked_fill(stays, torch.inf)


def _worth(method: Method, layer: Layer, given: dict[str, Any]) -> Tensor:
    query, keys, mask = given["query"], given["key"], given["attn_mask"]
    if method.kind == "merge" and method.needs != "class":
        padding = None
        if mask is not None:
            padding = ~visible(mask)[:, 0, 0].expand(len(keys), keys.shape[-2])
        best = similarities(keys.mean(1), layer.tokens.first, padding).max(-1).values
        score = torch.full((len(keys), keys.shape[-2]), torch.inf)
        score[:, ::2] = -best
        return score
    scale = scale_of(layer.attention)
    if method.needs in ("class", "last"):
        row = of_first if method.needs == "class" else of_last
        return row(query, keys, scale, mask)[:, :, 0].mean(1)
    return received(probabilities(query, keys, scale, mask, bool(given["is_causal"])))
