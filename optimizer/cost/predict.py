"""The time of a program on a target, before anything runs: launches, rooflines, fitted efficiencies, an interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from tersor.context import origin
from tersor.cost.bound import bound, on_tensor_cores
from tersor.cost.context import KEPT
from tersor.cost.launches import Launch, launches
from tersor.cost.memory import peak_bytes
from tersor.cost.precision import precision_named
from tersor.cost.slowdown import call_seconds, estimate, launch_seconds, whole_interval
from tersor.errors import UsageError
from tersor.program import Program
from tersor.target import Target


@dataclass(frozen=True)
class Layer:
    """One launch and its predicted time.

    Attributes:
        name: of the first node; ``origin`` is where that came from in the model.
        launch: its work.
        seconds, low, high: predicted, and between what it lies nine times out of ten.
        bound: seconds of the roofline.
        limit: "compute", "memory" or "launch", whichever takes longest.
        tensor_cores: whether its dtype and shape let tensor cores run it.
    """

    name: str
    origin: str
    launch: Launch
    seconds: float
    low: float
    high: float
    bound: float
    limit: str
    tensor_cores: bool


@dataclass(frozen=True)
class Prediction:
    """What one run of a program costs.

    Attributes:
        target, backend, precision, batch: what was asked.
        seconds, low, high: predicted time, what a call costs included, and between what it lies nine times out of ten.
        bound: seconds below which no implementation of these launches can be.
        flops, bytes: of all launches.
        weights, activations: bytes of memory that are needed, activations at the busiest moment.
        layers: the launches in order.
    """

    target: str
    backend: str
    precision: str
    batch: int
    seconds: float
    low: float
    high: float
    bound: float
    flops: float
    bytes: float
    weights: float
    activations: float
    layers: tuple[Layer, ...]


def cost(
    program: Program, target: Target, backend: str = "eager", precision: str = "", batch: int | None = None
) -> Prediction:
    """Predict one run.

    The batch is taken to be the first axis of the first input, and all activations to grow with it.

    Args:
        program: with shapes.
        target: with a data sheet; a CPU needs a measured profile.
        backend: whose fusion rules hold, see `tersor.cost.launches.FUSION`.
        precision: as if the program ran in it, such as "fp16", "int8" or "amp"; empty as it was captured.
        batch: empty for that of the example inputs.

    Raises:
        UsageError: the target has no data sheet, or the batch is not positive.
    """
    precision = precision_named(precision)
    size, factor = _batch(program, batch)
    found = [one.scaled(factor) for one in launches(program.graph, backend, precision, _sparse(program))]
    names = {node.name: node for node in program.nodes}
    resident = stays(found, target)
    layers = tuple(_layer(one, target, backend, names, resident) for one in found)
    total = sum(layer.seconds for layer in layers)
    total += call_seconds(target, backend, total)
    least = sum(layer.bound for layer in layers)
    low, high = whole_interval(target, backend, found)
    weights, activations = peak_bytes(program.graph, precision, factor)
    return Prediction(
        target.name, backend, precision, size, total, max(least, low * total), high * total, least,
        sum(one.flops for one in found), sum(one.bytes for one in found), weights, activations, layers,
    )  # fmt: skip


def timed(found: Sequence[Launch], target: Target, backend: str) -> tuple[float, float]:
    """Predicted seconds of so many launches one after the other, and the least that they can take."""
    resident, start = stays(found, target), launch_seconds(target, backend)
    parts = [estimate(one, target, backend, resident) for one in found]
    total = sum(part.seconds + start for part in parts)
    return total + call_seconds(target, backend, total), sum(part.least for part in parts)


def stays(found: Sequence[Launch], target: Target) -> bool:
    """Whether all weights lie in the last-level cache when the next run begins, as far as that was measured."""
    return target.cache_bandwidth > 0 and sum(one.weights for one in found) <= KEPT * target.cache


def _batch(program: Program, batch: int | None) -> tuple[int, float]:
    first = program.inputs[0] if program.inputs else torch.empty(1)
    example = int(first.shape[0]) if first.dim() else 1
    if batch is None:
        return example, 1.0
    if batch < 1:
        raise UsageError(f"batch is {batch}", "give a positive batch size")
    return batch, batch / max(1, example)


def _layer(launch: Launch, target: Target, backend: str, names: dict[str, fx.Node], resident: bool) -> Layer:
    found = estimate(launch, target, backend, resident)
    start = launch_seconds(target, backend)
    node = names.get(launch.nodes[0])
    limit = "launch" if start > found.seconds else _limit(launch, target, resident)
    return Layer(
        launch.nodes[0], origin(node) if node is not None else "", launch, found.seconds + start, found.low + start,
        found.high + start, found.least, limit, on_tensor_cores(launch, target),
    )  # fmt: skip


def _limit(launch: Launch, target: Target, resident: bool) -> str:
    least = bound(launch, target, resident)
    return "compute" if least.compute > least.memory else "memory"


def _sparse(program: Program) -> Callable[[fx.Node], bool]:
    """Whether a weight is 2:4 along its input channels: two of every four neighbours zero, and not all of them."""
    known: dict[str, bool] = {}

    def check(node: fx.Node) -> bool:
        name = str(node.target)
        if name not in known:
            known[name] = is_two_of_four(program.weight(node))
        return known[name]

    return check


def is_two_of_four(weight: torch.Tensor | None) -> bool:
    """Whether at most two of every four neighbouring inputs of a weight [out, in, ...] are not zero.

    >>> is_two_of_four(torch.tensor([[1.0, 0.0, 0.0, 2.0]])), is_two_of_four(torch.ones(1, 4))
    (True, False)
    """
    if weight is None or weight.dim() < 2 or weight.shape[1] % 4 or weight.device.type == "meta" or not weight.numel():
        return False
    rows = weight.detach().movedim(1, -1).reshape(-1, 4)
    if int((rows[:64] != 0).sum(1).max()) > 2:
        return False
    return int((rows != 0).sum(1).max()) <= 2 and bool((rows != 0).any())
