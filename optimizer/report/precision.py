"""Where the error of a quantized program comes from: rows for tables, the layers that matter first."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tersor.report.model import LayerError, PrecisionRecord, Report, StepRecord


def records(report: Report) -> Iterator[tuple[StepRecord, PrecisionRecord]]:
    """Each pass that quantized, or tried to, with what it told."""
    for step in report.steps:
        if step.precision is not None and step.precision.layers:
            yield step, step.precision


def decibels(energy: float | None) -> str:
    """Signal to noise, from an error's energy relative to the signal's.

    >>> decibels(0.001), decibels(0.0), decibels(None)
    ('30.0 dB', 'exact', '')
    """
    if energy is None or math.isnan(energy):
        return ""
    return f"{-10 * math.log10(energy):.1f} dB" if energy > 0 else "exact"


def percent(energy: float | None) -> str:
    """An error's energy as a share.

    >>> percent(0.0123), percent(None)
    ('1.23%', '')
    """
    return "" if energy is None else f"{100 * energy:.3g}%"


def ranked(record: PrecisionRecord) -> list[LayerError]:
    """Layers by what they add to the error of the outputs alone, the most first, then those not looked at."""
    return sorted(record.layers, key=lambda layer: (-(layer.alone or 0.0), -(layer.local or 0.0)))


def headline(record: PrecisionRecord) -> str:
    """One line: how much is computed on integers, and how much was given back."""
    kept = [layer for layer in record.layers if layer.kept]
    why = f" ({record.reason})" if record.reason else ""
    text = (
        f"{len(kept)} of {len(record.layers)} layers with {sum(layer.work for layer in kept):.1%} of the multiply-adds "
        f"on integers: {record.weights} weights{why}, {record.activations} activations"
    )
    return f"{text}; {record.returned:.1%} given back to save precision" if record.returned else text
