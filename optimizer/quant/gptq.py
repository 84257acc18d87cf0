"""GPTQ: levels of a weight chosen one input after another, each rounding error made up for by the inputs that follow.

Shapes of weights and Gram matrices are those of `tersor.quant.levels`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.importance.surgery import damped
from tersor.quant.grid import Grid, dequantize, grid, quantize
from tersor.quant.levels import Levels, better, checked, min_max, nearest, wide

BLOCK = 128
"""Inputs whose errors are passed on one by one before they are passed on to all others by one product."""


def gptq(
    weight: Tensor,
    gram: Tensor,
    on: str | Grid,
    *,
    group: int | None = None,
    symmetric: bool = True,
    actorder: bool = True,
    damping: float = 0.01,
    ranges: tuple[Tensor, Tensor] | None = None,
) -> Levels:
    """Round a weight so that the errors of its outputs cancel (Frantar et al., ICLR 2023, arXiv:2210.17323).

    Inputs are rounded one after another; each is first moved to where it makes up best for the errors of those before.
    With ``gram + damping = R R^T``, R upper triangular, that place is ``w_j + sum_i<j (w_i - q_i) R_ij / R_jj``: the
    paper's update without an inverse (and Babai's nearest plane, Chen et al., arXiv:2507.18553). An output that nearest
    rounding serves better keeps nearest rounding; so does an input that was always zero, and the whole weight where the
    Gram matrix is zero because there were no data. Weights that are zero stay zero, so that sparse layers stay sparse.

    Args:
        weight: [..., out, in].
        gram: [..., in, in].
        on: the grid.
        group: inputs that share a scale; None is one scale per output.
        symmetric: as in `affine`.
        actorder: take inputs with the most energy first. Scales of groups are then those of the original weight;
            otherwise a group's scale is that of the weights as moved when their turn comes.
        damping: added to the diagonal, relative to its mean; raised by itself where that is not enough to factorize.
        ranges: scale and zero point [..., out, n] to round with instead, as from `clip`; ``group`` has no effect then.

    Raises:
        UsageError: shapes do not fit, the weight is not finite, or the matrix is no Gram matrix.
        InputError: the Gram matrix is not finite.

    >>> gptq(torch.tensor([[0.75, 1.0]]), torch.tensor([[1.0, 0.9], [0.9, 1.0]]), "int4", symmetric=False).level.shape
    torch.Size([1, 2])
    """
    on, (real, gram) = grid(on), checked(weight, gram)
    scale, zero = ranges or min_max(real, on, group=group, symmetric=symmetric)
    plain = nearest(real, scale, zero, on)
    if group is not None and not actorder and ranges is None:
        level, scale, zero = _sweep(real, _factor(gram, damping), plain, on, group, symmetric)
        return better(real, gram, plain, Levels(level, scale[..., ::group], zero[..., ::group]))
    order = gram.diagonal(dim1=-2, dim2=-1).argsort(descending=True, stable=True)
    order = order if actorder else torch.arange(real.shape[-1], device=real.device).expand_as(order)
    wanted = Levels(_taken(plain.level, order), _taken(wide(scale, real.shape[-1]), order),
                    _taken(wide(zero, real.shape[-1]), order))  # fmt: skip
    upper = _factor(_taken(_taken(gram, order).mT, order), damping)
    level, _, _ = _sweep(_taken(real, order), upper, wanted, on, BLOCK, None)
    return better(real, gram, plain, Levels(_taken(level, order.argsort()), scale, zero))


def _taken(value: Tensor, order: Tensor) -> Tensor:
    """Columns of ``[..., rows, in]`` in an order ``[..., in]``."""
    return value.gather(-1, order[..., None, :].expand(value.shape))


def _factor(gram: Tensor, damping: float) -> Tensor:
    """The upper triangular R with ``R R^T`` the damped matrix: Cholesky from the last row to the first."""
    while damping <= 1:
        lower, failed = torch.linalg.cholesky_ex(damped(gram, damping).flip(-1, -2))
        if not bool(failed.any()):
            return lower.flip(-1, -2)
        damping = max(10 * damping, 1e-10)
    raise UsageError("the matrix given as Gram matrix is far from positive semidefinite", "give the sum of x x^T")


def _sweep(
    weight: Tensor, upper: Tensor, start: Levels, on: Grid, block: int, symmetric: bool | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Levels, scales and zero points, all [..., out, in]; ``symmetric`` other than None finds new ranges per block."""
    inputs, gap, level = weight.shape[-1], torch.zeros_like(weight), start.level.clone()
    scale, zero = wide(start.scale, inputs).clone(), wide(start.zero, inputs).clone()
    for first in range(0, inputs, block):
        part = slice(first, min(first + block, inputs))
        inner, push = upper[..., part, part], gap[..., :first] @ upper[..., :first, part]
        if symmetric is not None:
            moved = weight[..., part] + torch.linalg.solve_triangular(inner, push, upper=True, left=False)
            scale[..., part], zero[..., part] = min_max(moved, on, symmetric=symmetric)
        for j in range(part.stop - first):
            at = first + j
            target = weight[..., at] + push[..., j] / inner[..., j, j, None]
            found = quantize(target, scale[..., at], zero[..., at], on)
            level[..., at] = torch.where(weight[..., at] == 0, zero[..., at].to(on.dtype), found)
            gap[..., at] = weight[..., at] - dequantize(level[..., at], scale[..., at], zero[..., at])
            push[..., j + 1 :] += gap[..., at, None] * inner[..., j, None, j + 1 :]
    return level, scale, zero
