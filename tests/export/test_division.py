"""Division that rounds: exact for whole numbers of any size and sign, against eager PyTorch."""

from collections.abc import Callable

import pytest
import torch

from tersor.capture.torch import capture_module
from tests.export.models import BATCH, Apply, captured, exported, operators

DIVISORS = torch.tensor([2, 3, -3, 5])

WHOLE: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], int]] = {
    "truncated": (lambda x: torch.div(x, 3, rounding_mode="trunc"), 1),
    "truncated by several": (lambda x: torch.div(x, DIVISORS.to(x.dtype), rounding_mode="trunc"), 1),
    "rounded down": (lambda x: torch.div(x, -3, rounding_mode="floor"), 5),
    "floor_divide": (lambda x: torch.floor_divide(x, 5), 5),
    "rounded down by several": (lambda x: x // DIVISORS.to(x.dtype), 8),
}


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers(name: str, dtype: torch.dtype) -> None:
    function, most = WHOLE[name]
    least, largest = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    numbers = torch.tensor([[7, -7, least, largest], [0, -6, -(2**24) - 1, min(2**53 + 1, largest)]], dtype=dtype)
    program = capture_module(Apply(function).eval(), (numbers,), ({0: BATCH},))
    counted = operators(exported(program, tolerance=0.0))
    assert counted["Div"] == 1
    if dtype == torch.int64:  # a number to divide by is one in the graph, and converted there
        assert counted.total() <= most


@pytest.mark.parametrize("mode", ["trunc", "floor", None])
def test_other_numbers(mode: str | None) -> None:
    exported(captured(lambda x: torch.div(x * 9, 0.7, rounding_mode=mode), 3, 4))
    exported(captured(lambda x: torch.div((x * 9).to(torch.int64), 0.7, rounding_mode=mode), 3, 4))
    exported(captured(lambda x: (x.abs() * 9).to(torch.uint8) // 2, 3, 4))
