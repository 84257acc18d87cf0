"""Linear maps fitted to what a layer gives on calibration data, drawn towards a first guess where data is scarce."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.factor.observe import thinned


@dataclass
class Pairs:
    """Sums over pairs of rows ``x`` and ``y``, in double precision.

    Attributes:
        count: pairs so far.
        x, y: (p,) and (q,) sums.
        xx: (p, p) sum of outer products of x with itself.
        xy: (p, q) sum of outer products of x with y.
    """

    count: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor

    @classmethod
    def empty(cls, inputs: int, outputs: int) -> Pairs:
        """No pairs yet."""
        shapes = ((inputs,), (outputs,), (inputs, inputs), (inputs, outputs))
        return cls(0, *(torch.zeros(shape, dtype=torch.float64) for shape in shapes))

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in (n, p) and (n, q) rows."""
        x, y = thinned(x).double().cpu(), thinned(y).double().cpu()
        self.count += x.shape[0]
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.xx += x.T @ x
        self.xy += x.T @ y

    def is_usable(self) -> bool:
        """Whether there are pairs at all, and all of them finite."""
        return self.count > 0 and bool(self.xx.isfinite().all()) and bool(self.xy.isfinite().all())


def refit(guess: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """The map ``weight @ x + shift`` nearest to ``y`` in the least-squares sense, near ``guess``.

    Ridge regression of what the guess leaves, with a penalty that weighs as much as one row per input and fades with
    the number of rows.

    Args:
        guess: (q, p).
        pairs: usable ones.

    Returns:
        weight (q, p) and shift (q,), float64.
    """
    guess = guess.double()
    mean_x, mean_y = pairs.x / pairs.count, pairs.y / pairs.count
    xx = pairs.xx / pairs.count - torch.outer(mean_x, mean_x)
    xy = pairs.xy / pairs.count - torch.outer(mean_x, mean_y)
    penalty = xx.trace() / pairs.count + 1e-12 * xx.diagonal().max() + 1e-300
    ridge = xx + penalty * torch.eye(len(xx), dtype=torch.float64)
    weight = guess + torch.linalg.solve(ridge, xy - xx @ guess.T).T
    return weight, mean_y - weight @ mean_x


def refit_on(weight: Tensor, covariance: Tensor, features: Tensor) -> Tensor:
    """The map from ``features @ x`` that comes nearest to ``weight @ x`` for inputs of a given covariance.

    Args:
        weight: (q, n).
        covariance: (n, n) of x.
        features: (p, n).

    Returns:
        (q, p), float64.

    >>> weight = torch.randn(2, 3, dtype=torch.float64)
    >>> unit = torch.eye(3, dtype=torch.float64)
    >>> torch.allclose(refit_on(weight, unit, unit), weight)
    True
    """
    weight, features = weight.double(), features.double()
    seen = features @ covariance
    inner = seen @ features.T
    ridge = 1e-9 * inner.diagonal().mean() + 1e-300
    return torch.linalg.solve(inner + ridge * torch.eye(len(inner), dtype=torch.float64), seen @ weight.T).T


def residual(weight: Tensor, other: Tensor, covariance: Tensor) -> Tensor:
    """What another map loses: ``E[(w x - v x)^2]`` of each row, float64 [..., out]; a sum where the moments are one.

    Args:
        weight, other: [..., out, in].
        covariance: second moments of the inputs, or a multiple, [..., in, in].

    >>> residual(torch.tensor([[3.0, 1.0]]), torch.tensor([[3.0, 0.0]]), torch.eye(2)).tolist()
    [1.0]
    """
    gap = weight.double() - other.double()
    return ((gap @ covariance.double()) * gap).sum(-1).clamp_min(0)
