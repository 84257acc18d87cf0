"""Histograms of activations that grow with what they see, so that calibration runs once and keeps no activations."""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 2048


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
        """Take in every element; what is not finite is only counted, in ``bad``."""
        flat = value.detach().flatten().float()
        finite = flat[flat.isfinite()]
        self.bad += flat.numel() - finite.numel()
        if not finite.numel():
            return
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
        place = (values.double() / self.width).floor().long() + BINS
        self.counts += torch.bincount(place.clamp(0, 2 * BINS - 1), minlength=2 * BINS)

    @property
    def centres(self) -> Tensor:
        """The middle of each bin, float64 of shape [2 * BINS]."""
        return (torch.arange(2 * BINS, dtype=torch.float64) - BINS + 0.5) * self.width
