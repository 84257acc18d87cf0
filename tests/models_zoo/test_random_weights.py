import torch
from torch import nn

from tersor.models_zoo.random_weights import enliven


def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()


def test_constants_are_moved_and_drawn_weights_kept():
    changed, fresh = model(), model()
    enliven(changed, lambda: changed(torch.ones(2, 3, 9, 9)), torch.Generator().manual_seed(1))
    assert torch.equal(changed[0].weight, fresh[0].weight)
    assert changed[1].weight.unique().numel() == changed[1].bias.unique().numel() == 8
    assert not any(module.training for module in changed.modules())
    assert changed[1].momentum == fresh[1].momentum


def test_batch_norm_normalises_what_it_saw():
    changed, x = model(), torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(2))
    enliven(changed, lambda: changed(x), torch.Generator().manual_seed(1))
    norm = changed[1]
    with torch.no_grad():
        plain = (norm(changed[0](x)) - norm.bias[:, None, None]) / norm.weight[:, None, None]
    torch.testing.assert_close(plain.mean((0, 2, 3)), torch.zeros(8), rtol=0, atol=1e-4)
    torch.testing.assert_close(plain.std((0, 2, 3)), torch.ones(8), rtol=0, atol=2e-2)


def test_a_silent_channel_is_not_blown_up():
    changed = model()
    with torch.no_grad():
        changed[0].weight[3] = 0
    x = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(2))
    enliven(changed, lambda: changed(x), torch.Generator().manual_seed(1))
    assert changed[1].running_var[3] >= 0.09 * changed[1].running_var.mean()
