"""What a latency may be written as."""

from __future__ import annotations

from typing import Any

import pytest

from tersor.errors import UsageError
from tersor.search.wanted import Latency, latency


@pytest.mark.parametrize(
    ("value", "found"),
    [(5, Latency(ms=5.0)), (2.5, Latency(ms=2.5)), ("5ms", Latency(ms=5.0)), ("800us", Latency(ms=0.8)),
     (" 1e-2 s ", Latency(ms=10.0)), ("50%", Latency(share=0.5)), ("7", Latency(ms=7.0))],
)  # fmt: skip
def test_units(value: Any, found: Latency) -> None:
    made = latency(value)
    assert made.share == found.share and made.ms == pytest.approx(found.ms)


@pytest.mark.parametrize("value", [0, -1.0, True, None, "", "fast", "5 minutes", "120%", "0%", "1.2.3ms", "nan", 1e999])
def test_what_is_no_latency_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="wanted milliseconds or a share"):
        latency(value)


def test_as_a_share_of_the_original() -> None:
    assert latency("5ms").ratio(20.0) == 0.25
    assert latency("30%").ratio(None) == 0.3
    with pytest.raises(UsageError, match="give a share such as"):
        latency(5.0).ratio(None)
