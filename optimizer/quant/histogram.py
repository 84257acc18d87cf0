"""Histograms of activations that grow with what they see, so that calibration runs once and keeps no activations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BINS = 2048

LOOKED_AT = 1 << 18
"""Elements of one tensor that are sorted into bins; the smallest and the largest are looked for among all."""


class Histogram:
    """Counts of equal bins around zero; the bins double in width as often as a larger value demands.

    Attributes:
        counts: float64 of shape [2 * BINS]; bin ``i`` holds values from ``(i - BINS) * width`` on.
        width: of a bin; 0 until a value other than zero was seen.
        low, high: the smallest and the largest value seen, exactly.
        seen: how many values.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(2 * BINS, dtype=torch.float64)
        self.width = 0.0
        self.low, self.high, self.seen, self.bad = 0.0, 0.0, 0, 0

    def add(self, value: Tensor) -> None:
        """Take in every element, or of many an even share; what is not finite is only counted, in ``bad``."""
        finite = value.detach().flatten().float()
        if not finite.numel():
            return
        low, high = (float(item) for item in finite.aminmax())
        if not math.isfinite(low) or not math.isfinite(high):
            kept = finite[finite.isfinite()]
            self.bad += finite.numel() - kept.numel()
            if not kept.numel():
                return
            finite = kept
            low, high = (float(item) for item in finite.aminmax())
        self.low, self.high = (min(self.low, low), max(self.high, high)) if self.seen else (low, high)
        self.seen += finite.numel()
        self._widen(max(abs(low), abs(high)))
        self._count(finite)

    def _widen(self, largest: float) -> None:
        if not self.width:
            self.width = largest / (BINS - 1)
            return
        while largest > self.width * (BINS - 1):
            below, above = self.counts[:BINS].reshape(-1, 2).sum(1), self.counts[BINS:].reshape(-1, 2).sum(1)
            self.counts = torch.zeros_like(self.counts)
            self.counts[BINS - BINS // 2 : BINS], self.counts[BINS : BINS + BINS // 2] = below, above
            self.width *= 2

    def _count(self, values: Tensor) -> None:
        if not self.width:
            self.counts[BINS] += values.numel()
            return
        chosen = values[:: stride(values.numel())]
        place = (chosen.double() / self.width).floor().long() + BINS
        found = torch.bincount(place.clamp(0, 2 * BINS - 1), minlength=2 * BINS)
        self.counts += found * (values.numel() / chosen.numel())

    @property
    def centres(self) -> Tensor:
        """The middle of each bin, float64 of shape [2 * BINS]."""
        return (torch.arange(2 * BINS, dtype=torch.float64) - BINS + 0.5) * self.width


def stride(count: int, most: int = LOOKED_AT) -> int:
    """The step with which at most about ``most`` of ``count`` elements are looked at.

    It shares no factor with the count, so that it does not fall in step with rows, columns or channels.

    >>> stride(1000, 1000), stride(1000, 250)
    (1, 7)
    """
    step = max(1, -(-count // most))
    while math.gcd(step, count) > 1:
        step += 1
    return step
