"""Indexing by tensors: one node where ONNX has one, against eager PyTorch."""

from collections.abc import Callable

import pytest
import torch

from tests.export.models import captured, exported, operators

ORDER = torch.tensor([2, 0, -1])
TABLE = torch.tensor([[0, 1], [1, 3], [1, 0]])
MASK = torch.tensor([True, False, True, True])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, ORDER],
        lambda x: x[:, :, ORDER],
        lambda x: x[:, ORDER.reshape(3, 1, 1)],
        lambda x: x[(x.flatten(1).argmax(1) * 0).reshape(-1, 1, 1)],
    ],
    ids=["one axis", "last axis", "several axes", "computed"],
)
def test_one_index_is_one_gather(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    counted = operators(exported(captured(function, 2, 4, 5)))
    assert counted["Gather"] == 1 and not counted["GatherND"] and not counted["Expand"]


def test_points_stay_one_table() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        points = (x[:2].argmax(-1) * 0)[:, :2]
        return x[points.select(-1, 0), points.select(-1, 1)]

    counted = operators(exported(captured(function, 3, 4, 5)))
    assert counted["GatherND"] == 1 and not counted["Expand"] and not counted["Concat"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, TABLE[:, 1], TABLE[:, 0]],
        lambda x: x[(x.argmax(-1) * 0)[:, 1:3].select(-1, 1), (x.argmax(-1) % 2)[:, 1:3].select(-1, 0)],
        lambda x: x[:, ORDER, :, ORDER],
        lambda x: x.permute(1, 0, 2, 3)[ORDER[:, None], ORDER.abs() * 0],
        lambda x: x[:, MASK],
    ],
    ids=["columns swapped", "columns of two tables", "apart", "broadcast", "mask"],
)
def test_everything_else_is_as_in_pytorch(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    exported(captured(function, 2, 4, 5, 6))
