"""Predictions for the report: the layers under the target's roofline, and times beside the measured ones."""

from __future__ import annotations

from tersor.cost.predict import Layer, Prediction, cost
from tersor.program import Program
from tersor.report.model import Report, RooflineLayer, RooflineRecord
from tersor.target import Target


def record(report: Report, before: Program, after: Program, target: Target) -> None:
    """Fill in the report's roofs and the predicted times of its timings; nothing where the target is not known.

    Args:
        report: with the backend that was chosen, and what was measured.
        before, after: the original and what is kept.
        target: the device.
    """
    if not target.rates or not target.bandwidth:
        return
    backend = report.backend or "eager"
    programs = [("before", before)] if after is before else [("before", before), ("after", after)]
    try:
        found = {title: cost(program, target, backend) for title, program in programs}
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        # A prediction is told for interest; no run ends for it.
        report.notes.append(f"no time was predicted: {type(error).__name__}: {error}".splitlines()[0])
        return
    report.rooflines = [roofline(title, prediction, target) for title, prediction in found.items()]
    if backend not in target.corrections:
        return
    for timing in report.timings:
        if timing.name == backend or timing.name == f"{backend} (original)":
            title = "before" if timing.name != backend or "after" not in found else "after"
            timing.predicted_ms = found[title].seconds * 1e3


def roofline(title: str, prediction: Prediction, target: Target) -> RooflineRecord:
    """The launches of a prediction with their work and traffic, and the roofs over the dtypes that occur.

    Work is of products; what has none counts one operation for each element.
    """
    layers = [_drawn(layer) for layer in prediction.layers]
    used = {layer.dtype for layer in layers} & set(target.rates) | {"float32"}
    rates = {dtype: rate for dtype, rate in target.rates.items() if dtype in used}
    near = target.cache_bandwidth or target.bandwidth
    return RooflineRecord(title, target.name, prediction.backend, rates, target.bandwidth, near, layers)


def _drawn(layer: Layer) -> RooflineLayer:
    launch = layer.launch
    work = launch.flops or float(launch.m * launch.n)
    return RooflineLayer(
        layer.name, launch.kind, launch.dtype, work, launch.bytes, layer.seconds, layer.bound, layer.origin
    )
