"""AWQ scales and clipping against the paper's formula on data, and against plain search."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tersor.errors import InputError, UsageError
from tersor.factor.least_squares import residual
from tersor.quant.awq import STEPS, awq, clip
from tersor.quant.grid import affine, grid, rounded
from tersor.quant.levels import min_max, nearest

INT4 = grid("int4")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def salient(count: int, inputs: int) -> Tensor:
    """Inputs of which a few are large."""
    size = torch.ones(inputs)
    size[::7] = 20
    return normal(count, inputs, seed=1) * size + 0.3 * normal(count, 1, seed=2)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [None, 7])
def test_the_papers_formula_on_data(symmetric: bool, group: int | None) -> None:
    weight, x = normal(12, 28), salient(300, 28)
    mean = x.abs().mean(0)
    errors = []
    for step in range(STEPS + 1):
        scale = mean ** (step / STEPS)
        scale = scale / (scale.max() * scale.min()).sqrt()
        made = nearest(weight * scale, *min_max(weight * scale, INT4, group=group, symmetric=symmetric), INT4).values
        errors.append(float(((x / scale) @ made.double().T - x @ weight.T).square().sum()))
    found = awq(weight, x.T @ x, "int4", magnitude=mean, group=group, symmetric=symmetric)
    best = int(torch.tensor(errors).argmin())
    assert found.alpha == best / STEPS > 0
    wanted = mean ** (best / STEPS)
    torch.testing.assert_close(found.scale, wanted / (wanted.max() * wanted.min()).sqrt())
    torch.testing.assert_close(torch.tensor([found.before, found.after]), torch.tensor([errors[0], errors[best]]))
    assert found.after < 0.8 * found.before


def test_magnitudes_from_the_gram_matrix() -> None:
    weight, x = normal(6, 14), salient(100, 14)
    assert torch.equal(
        awq(weight, x.T @ x, "int4").scale,
        awq(weight, x.T @ x, "int4", magnitude=(x.T @ x).diagonal().sqrt()).scale,
    )


def test_channels_of_windows_and_groups() -> None:
    weight, x = normal(2, 5, 12), torch.stack([normal(80, 12, seed=3), normal(80, 12, seed=4)])
    x[:, :, 4:8] *= 30
    found = awq(weight, x.mT @ x, "int4", magnitude=x.abs().mean(1).unflatten(1, (3, 4)).mean(2))
    assert found.scale.shape == (2, 3) and found.alpha > 0
    assert bool((found.scale[:, 1] > found.scale[:, 0]).all())


def test_dead_channels_and_no_data_change_nothing() -> None:
    weight, x = normal(6, 14), salient(100, 14)
    x[:, 3] = 0
    found = awq(weight, x.T @ x, "int4")
    assert found.alpha > 0 and float(found.scale[3]) == 1.0
    nothing = awq(weight, torch.zeros(14, 14), "int4")
    assert nothing.alpha == 0 and nothing.before == nothing.after == 0 and bool((nothing.scale == 1).all())
    flat = awq(torch.zeros(6, 14), x.T @ x, "int4")
    assert flat.after == flat.before == 0
    one = awq(normal(3, 1), torch.ones(1, 1), "int4")
    assert one.alpha == 0 and float(one.scale) == 1.0


def test_clipping_one_group_is_a_plain_search() -> None:
    weight, x = normal(9, 16) ** 3, salient(200, 16)
    gram = x.T @ x
    for symmetric in (True, False):
        low, high = weight.aminmax(dim=1)
        every = []
        for share in torch.linspace(1.0, 0.5, STEPS + 1).tolist():
            scale, zero = affine(low * share, high * share, INT4, symmetric=symmetric)
            every.append(residual(weight, rounded(weight, scale[:, None], zero[:, None], INT4), gram))
        found = clip(weight, gram, "int4", symmetric=symmetric)
        torch.testing.assert_close(found.before, every[0])
        torch.testing.assert_close(found.after, torch.stack(every).amin(0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("group", [1, 4, 16])
def test_clipping_groups_never_raises_the_error(group: int) -> None:
    weight, x = normal(9, 16) ** 3, salient(200, 16)
    gram = x.T @ x
    found = clip(weight, gram, "int4", group=group)
    made = nearest(weight, found.scale, found.zero, INT4)
    assert found.scale.shape == (9, 16 // group)
    torch.testing.assert_close(found.after, residual(weight, made.values, gram))
    assert bool((found.after <= found.before * (1 + 1e-9)).all())
    if group > 1:
        assert float(found.after.sum()) < 0.95 * float(found.before.sum())


def test_clipping_a_group_minds_the_errors_of_the_others() -> None:
    """With inputs that are all the same, errors cancel; groups by themselves would not see that."""
    weight, gram = normal(20, 8), torch.ones(8, 8, dtype=torch.float64)
    together = clip(weight, gram, "int4", group=2)
    apart = clip(weight, torch.block_diag(*[gram[:2, :2]] * 4), "int4", group=2)
    alone = residual(weight, nearest(weight, apart.scale, apart.zero, INT4).values, gram)
    assert float(together.after.sum()) < 0.5 * float(alone.sum())


def test_clipping_degenerate_weights_and_batches() -> None:
    weight, x = normal(2, 5, 6), normal(2, 40, 6, seed=7)
    gram = x.mT @ x
    whole = clip(weight, gram, "int4", group=3)
    assert torch.equal(whole.scale[1], clip(weight[1], gram[1], "int4", group=3).scale)
    nothing = clip(weight, torch.zeros(2, 6, 6), "int4")
    assert torch.equal(nothing.scale, min_max(weight, INT4)[0]) and not nothing.after.any()
    assert not clip(torch.zeros(3, 6), gram[0], "int4").after.any()


def test_what_is_refused() -> None:
    weight, eye = normal(3, 4), torch.eye(4)
    with pytest.raises(UsageError, match="one per channel"):
        awq(weight, eye, "int4", magnitude=torch.ones(3))
    with pytest.raises(UsageError, match="negative or not finite"):
        awq(weight, eye, "int4", magnitude=-torch.ones(4))
    with pytest.raises(InputError, match="not finite"):
        awq(weight, eye * torch.nan, "int4")
    with pytest.raises(UsageError, match="share"):
        clip(weight, eye, "int4", least=0.0)
