import importlib.util

import pytest
import torch

from tersor.models_zoo import torchvision_ops


def boxes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    corner = 10 * torch.rand(count, 2, generator=draw)
    size = 1 + 4 * torch.rand(count, 2, generator=draw)
    return torch.cat([corner, corner + size], dim=1), torch.rand(count, generator=draw)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_nms_keeps_the_best_of_each_cluster(seed, threshold):
    pytest.importorskip("PIL", reason="torchvision needs it")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    torchvision_ops.ensure()
    from torchvision.ops import box_iou

    places, scores = boxes(40, seed)
    kept = torchvision_ops.nms(places, scores, threshold)
    assert (scores[kept].diff() <= 0).all()
    overlap = box_iou(places, places)
    assert (overlap[kept][:, kept].fill_diagonal_(0) <= threshold).all()
    for index in set(range(40)) - set(kept.tolist()):
        better = kept[scores[kept] > scores[index]]
        assert (overlap[index, better] > threshold).any()


def test_nms_of_nothing():
    assert torchvision_ops.nms(torch.empty(0, 4), torch.empty(0), 0.5).shape == (0,)


def test_ensure_twice_does_nothing():
    torchvision_ops.ensure()
    torchvision_ops.ensure.cache_clear()
    torchvision_ops.ensure()
