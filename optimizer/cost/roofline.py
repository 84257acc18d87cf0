"""The roofline: no kernel is faster than its arithmetic, nor than the bytes that it has to move."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """What a kernel has to do.

    Attributes:
        operations: multiplications and additions, counted one by one.
        bytes: read from and written to the device's memory, each once.

    >>> Work(8.0, 4.0).intensity
    2.0
    """

    operations: float
    bytes: float

    @property
    def intensity(self) -> float:
        """Operations for each byte."""
        return self.operations / self.bytes

    def seconds(self, rate: float, bandwidth: float, launch: float = 0.0) -> float:
        """The least time that it takes (Williams, Waterman and Patterson, CACM 2009).

        Args:
            rate: operations per second.
            bandwidth: bytes per second.
            launch: seconds that starting a kernel costs, whatever it does.

        >>> Work(8.0, 4.0).seconds(rate=2.0, bandwidth=4.0)
        4.0
        """
        return max(self.operations / rate, self.bytes / bandwidth) + launch
