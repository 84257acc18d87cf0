"""The latency that a user asks for: milliseconds, or a share of the original's."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tersor.errors import UsageError

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_TEXT = re.compile(r"\s*(?P<number>[0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(?P<unit>us|ms|s|%)?\s*")


@dataclass(frozen=True)
class Latency:
    """What is wanted; one of the two is None.

    Attributes:
        ms: milliseconds of one run.
        share: of the original's time on its fastest backend.
    """

    ms: float | None = None
    share: float | None = None

    def ratio(self, original_ms: float | None) -> float:
        """As a share of the original's time; raises UsageError where that is not known in milliseconds."""
        if self.share is not None:
            return self.share
        if original_ms is None:
            raise UsageError(
                f"latency is {self.ms:g} ms, and nothing is measured or known of this target",
                "give a share such as '50%', seconds above 0, or run 'tersor targets --measure'",
            )
        return (self.ms or 0.0) / original_ms

    def __str__(self) -> str:
        return f"{self.ms:g} ms" if self.share is None else f"{self.share:.0%} of the original's time"


def latency(value: object) -> Latency:
    """A number is milliseconds; text may have a unit or be a share; raises UsageError.

    >>> latency(5.0), latency("0.5s").ms, latency("50%").share
    (Latency(ms=5.0, share=None), 500.0, 0.5)
    """
    if isinstance(value, Latency):
        return value
    match = _TEXT.fullmatch(value if isinstance(value, str) else repr(value))
    try:
        number = float(match["number"]) if match and not isinstance(value, bool) else 0.0
    except ValueError:
        number = 0.0
    unit = match["unit"] if match else None
    if not 0 < number < float("inf") or (unit == "%" and number > 100):
        raise UsageError(
            f"latency is {value!r}, wanted milliseconds or a share", "for example 5.0, '5ms' or '50%' of the original's"
        )
    return Latency(share=number / 100) if unit == "%" else Latency(ms=number * _UNITS.get(unit or "ms", 1.0))
