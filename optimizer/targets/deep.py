"""Measures single operators in the runtimes of this machine: what ``tersor targets --measure --deep`` does."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import onnx

from tersor.cost.context import KEPT, BlockRow
from tersor.cost.correction import Row, fit, raised
from tersor.target import Target
from tersor.targets.blocks import Block, blocks, launches_of
from tersor.targets.probe_models import ALWAYS_APART, FUSED, chain, model
from tersor.targets.probes import Probe, probes

SHORT, LONG = 2, 6
"""Operators in the two chains whose difference is the time of four."""
_HELD = 0.6
"""Share of the last-level cache in which a chain of one operator finds its weights again; it reads little else."""
_MOST = 24
"""Blocks in the longest chain, made so long that its weights do not stay in the cache."""
_SECONDS, _LEAST = 0.02, 5
"""How long a chain is repeated, and how often at least."""
_SHARED = 10e-6
"""Seconds from which all threads share an operator for certain."""
_NOISE = 0.2
"""A difference below this share of the long chain's time for one operator is taken for noise."""

Runner = Callable[[onnx.ModelProto], Callable[[], Any]]


@dataclass(frozen=True)
class Found:
    """What was measured in one runtime.

    Attributes:
        rows, blocks: operators, and blocks of them.
        call: seconds of a run in which next to nothing is computed.
        wake: seconds that a run takes longer once threads share the work.
    """

    rows: tuple[Row, ...]
    blocks: tuple[BlockRow, ...]
    call: float
    wake: float


def corrected(target: Target, found: Mapping[str, Found]) -> Target:
    """The target with what was measured fitted by runtime, and with rates that nothing measured exceeds."""
    target = raised(target, [row for one in found.values() for row in one.rows])
    made = {name: fit(one.rows, one.blocks, one.call, one.wake, target) for name, one in found.items()}
    return replace(target, corrections={**target.corrections, **made})


def deep(
    target: Target, say: Callable[[str], None] = lambda line: None, backends: Sequence[str] = ()
) -> dict[str, Found]:
    """Measure every operator in every runtime that is installed.

    Args:
        target: this machine with its measured rates.
        say: told which runtime is at work.
        backends: of `RUNNERS`; empty for all.
    """
    found: dict[str, Found] = {}
    for backend in backends or RUNNERS:
        make = RUNNERS[backend]
        if importlib.util.find_spec(backend) is not None:
            say(f"measuring operators in {backend}")
            plain = _session_runner(target.threads) if backend == "onnxruntime" else None
            found[backend] = measured(target, make(target.threads), fuses_chains=backend == "openvino", plain=plain)
    return found


def measured(target: Target, runner: Runner, *, fuses_chains: bool, plain: Runner | None = None) -> Found:
    """What one runtime takes for each operator, in seconds; those that it refuses are left out.

    Args:
        target: this machine.
        runner: compiles a model and returns a call without arguments.
        fuses_chains: whether the runtime runs chains of elementwise operators as one.
        plain: compiles to a call that hands tensors over as a program does, where ``runner`` does without.
    """
    rows, rest = [], []
    mixed = measured_blocks(target, runner, fuses_chains=fuses_chains)
    result = _seconds_of_a_result(runner) if fuses_chains else 0.0
    for probe in probes():
        if fuses_chains and probe.kind == "dequantize":
            continue  # it is done once, beforehand
        apart = probe.kind in ALWAYS_APART or probe.kind in (FUSED if fuses_chains else ("linear",))
        launch, make = probe.launch(), partial(model, probe, apart=apart)
        with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):
            seconds, left = seconds_of(make, runner)
            seconds = max(1e-7, seconds - result) if apart else seconds
            rows.append(Row(launch, seconds, LONG * launch.weights < _HELD * target.cache))
            rest += [left] if launch.flops and seconds > _SHARED else []
    again = measured_blocks(target, runner, fuses_chains=fuses_chains)
    # What else the machine does makes memory slower for a while: the faster of two visits counts.
    mixed = [min(pair, key=lambda row: row.seconds) for pair in zip(mixed, again, strict=True)]
    bound = _seconds(runner(model(Probe("add", 16, 16, 1), SHORT)))
    call = max(bound, _seconds(plain(model(Probe("add", 16, 16, 1), SHORT)))) if plain else bound
    return Found(tuple(rows), tuple(mixed), call, max(0.0, median(rest) - bound) if rest else 0.0)


def _seconds_of_a_result(runner: Runner) -> float:
    """What handing out one more result costs: operators that stand apart have one each."""
    return seconds_of(partial(model, Probe("add", 16, 16, 1), apart=True), runner)[0]


def measured_blocks(target: Target, runner: Runner, *, fuses_chains: bool) -> list[BlockRow]:
    """The blocks alone, see `measured`."""
    return [row for block in blocks() for row in _in_context(block, target, runner, blocked=not fuses_chains)]


def _in_context(block: Block, target: Target, runner: Runner, *, blocked: bool) -> Iterator[BlockRow]:
    """A block whose weights stay in the cache from run to run, and one whose weights do not, where it has enough."""
    launches = tuple(launches_of(block, blocked))
    weights, kept = sum(one.weights for one in launches), KEPT * target.cache
    cold = math.ceil(kept / weights) if weights else _MOST
    lengths = [(SHORT, LONG, True)] if LONG * weights < kept else []
    lengths += [(cold, cold + cold // 2 + 1, False)] if cold <= _MOST else []
    for short, long, resident in lengths:
        with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):
            seconds, _ = seconds_of(partial(chain, block), runner, short, long)
            yield BlockRow(launches, seconds, resident)


def seconds_of(
    make: Callable[[int], onnx.ModelProto], runner: Runner, short: int = SHORT, long: int = LONG
) -> tuple[float, float]:
    """Seconds of one repetition, and what the rest of a run takes."""
    few, many = (_seconds(runner(make(count))) for count in (short, long))
    share = many / long
    between = (many - few) / (long - short)
    one = between if _NOISE * share < between else share
    return one, max(0.0, few - short * one)


def onnxruntime_runner(threads: int) -> Runner:
    """Sessions with the settings of the backend, whose results stay where they are."""
    import onnx_ir as ir

    from tersor.export.runtime import Session

    def run(proto: onnx.ModelProto) -> Callable[[], Any]:
        session = Session(ir.serde.deserialize_model(proto), threads).session
        binding = session.io_binding()
        for item in session.get_inputs():
            binding.bind_cpu_input(item.name, _numbers(item.shape))
        for item in session.get_outputs():
            binding.bind_output(item.name, "cpu")
        session.run_with_iobinding(binding)
        for item, value in zip(session.get_outputs(), binding.get_outputs(), strict=True):
            binding.bind_ortvalue_output(item.name, value)
        return lambda: session.run_with_iobinding(binding)

    return run


def _session_runner(threads: int) -> Runner:
    """As programs are run: tensors in, tensors out."""
    import onnx_ir as ir
    import torch

    from tersor.export.runtime import Session

    def run(proto: onnx.ModelProto) -> Callable[[], Any]:
        session = Session(ir.serde.deserialize_model(proto), threads)
        feeds = [torch.from_numpy(_numbers(item.shape)) for item in session.session.get_inputs()]
        return lambda: session.run(feeds)

    return run


def openvino_runner(threads: int) -> Runner:
    """Compiled models with the settings of the backend; raises ImportError where it is not installed."""
    import openvino
    from openvino import properties

    core = openvino.Core()
    settings = {
        properties.hint.performance_mode: properties.hint.PerformanceMode.LATENCY,
        properties.hint.inference_precision: openvino.Type.f32,
        properties.inference_num_threads: threads,
        properties.hint.dynamic_quantization_group_size: 0,
    }

    def run(proto: onnx.ModelProto) -> Callable[[], Any]:
        compiled = core.compile_model(core.read_model(proto.SerializeToString()), "CPU", settings)
        request = compiled.create_infer_request()
        feeds = [_numbers(list(port.shape)) for port in compiled.inputs]
        return lambda: request.infer(feeds, share_inputs=True)

    return run


RUNNERS: dict[str, Callable[[int], Runner]] = {"onnxruntime": onnxruntime_runner, "openvino": openvino_runner}


def _numbers(shape: Any) -> Any:
    return np.random.default_rng(0).standard_normal([int(size) for size in shape]).astype(np.float32)


def _seconds(call: Callable[[], Any]) -> float:
    """Lower quartile of repeated calls, after two that warm up: what else runs on the machine only adds."""
    call()
    call()
    taken: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(taken) < _LEAST or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[len(taken) // 4]
