"""Measures single operators in the runtimes of this machine: what ``tersor targets --measure --deep`` does."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import onnx

from tersor.cost.correction import Row, fit, raised
from tersor.target import Target
from tersor.targets.probe_models import ALWAYS_APART, model
from tersor.targets.probes import Probe, probes

SHORT, LONG = 2, 6
"""Operators in the two chains whose difference is the time of four."""
_SECONDS, _LEAST = 0.02, 5
"""How long a chain is repeated, and how often at least."""
_NOISE = 0.2
"""A difference below this share of the long chain's time for one operator is taken for noise."""

Runner = Callable[[onnx.ModelProto], Callable[[], Any]]


def corrected(target: Target, backend: str, rows: Sequence[Row], call: float) -> Target:
    """The target with what was measured in one backend fitted, beside what it has of others."""
    return replace(target, corrections={**target.corrections, backend: fit(rows, call, target)})


def deep(target: Target, say: Callable[[str], None] = lambda line: None) -> tuple[Target, dict[str, Any]]:
    """Measure every operator in every runtime that is installed.

    Args:
        target: this machine with its measured rates.
        say: told which runtime is at work.

    Returns:
        The target with raised rates and corrections by backend, and the measured rows as plain values.
    """
    found: dict[str, list[Row]] = {}
    calls: dict[str, float] = {}
    for backend, make in RUNNERS.items():
        if importlib.util.find_spec(backend) is None:
            continue
        say(f"measuring operators in {backend}")
        runner = make(target.threads)
        calls[backend] = overhead(runner)
        found[backend] = list(measured(target, runner, fuses_chains=backend == "openvino"))
    target = raised(target, [row for rows in found.values() for row in rows])
    for backend, rows in found.items():
        target = corrected(target, backend, rows, calls[backend])
    plain = {
        backend: {"call": calls[backend], "rows": [asdict(row) for row in rows]} for backend, rows in found.items()
    }
    return target, plain


def measured(target: Target, runner: Runner, *, fuses_chains: bool, only: str = "") -> Iterator[Row]:
    """One row per operator that the runtime can run, in seconds; those that it refuses are left out.

    Args:
        target: this machine.
        runner: compiles a model and returns a call without arguments.
        fuses_chains: whether the runtime runs chains of elementwise operators as one.
        only: kind of probes; empty for all.
    """
    for probe in probes():
        if only and probe.kind != only:
            continue
        try:
            seconds = seconds_of(probe, runner, apart=fuses_chains)
        except (RuntimeError, ValueError, NotImplementedError):
            continue
        launch = probe.launch()
        resident = LONG * launch.weights < target.cache
        yield Row(launch, seconds, resident)


def seconds_of(probe: Probe, runner: Runner, *, apart: bool = False) -> float:
    """Seconds of one operator, the mean of its two directions."""
    apart = apart or probe.kind in ALWAYS_APART
    short, long = (_seconds(runner(model(probe, count, apart=apart))) for count in (SHORT, LONG))
    share = long / LONG
    between = (long - short) / (LONG - SHORT)
    return between if _NOISE * share < between else share


def overhead(runner: Runner) -> float:
    """Seconds of a call whose model has next to nothing to do, two small operators."""
    return _seconds(runner(model(Probe("add", 16, 16, 1), SHORT)))


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
