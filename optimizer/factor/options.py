"""Checks of the options that factorisation passes share."""

from __future__ import annotations


def share(name: str, value: float | None) -> None:
    """Raise ValueError unless the value is a share above 0 and at most 1, or not given.

    >>> share("ratio", 0.5)
    """
    if value is not None and not 0.0 < value <= 1.0:
        raise ValueError(f"{name} is {value}; wanted a share above 0 and at most 1")


def count(name: str, value: int, least: int = 1) -> None:
    """Raise ValueError where a whole number is too small."""
    if value < least:
        raise ValueError(f"{name} is {value}; wanted at least {least}")


def whole(name: str, value: float | None) -> None:
    """Raise ValueError unless the value is a share from 0 to 1, or not given."""
    if value is not None and not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value}; wanted a share from 0 to 1")
