"""Tucker-2 of a convolution: a thin 1 x 1, a small k x k core, a thin 1 x 1 (Kim et al., arXiv:1511.06530)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.factor.gradients import Metric
from tersor.factor.observe import Moments


@dataclass(frozen=True)
class Tucker:
    """``weight[o, i, :] = sum over p, q of outer[o, p] core[p, q, :] inner[q, i]``.

    Attributes:
        outer: (out, p).
        core: (p, q, *kernel).
        inner: (q, in).
    """

    outer: Tensor
    core: Tensor
    inner: Tensor

    @property
    def weight(self) -> Tensor:
        """The (out, in, *kernel) weight that the three together have."""
        return torch.einsum("op,pqk,qi->oik", self.outer, self.core.flatten(2), self.inner).unflatten(
            2, self.core.shape[2:]
        )


def input_root(inputs: Moments | None, width: int) -> Tensor:
    """(in, in) lower triangular root of the inputs' second moments; the identity where nothing was seen.

    Few rows are mixed with white noise, by as many rows as there are channels.
    """
    unit = torch.eye(width, dtype=torch.float64)
    if inputs is None:
        return unit
    seen = inputs.count / (inputs.count + width)
    scale = inputs.second.trace() / width
    lower, failed = torch.linalg.cholesky_ex(seen * inputs.second + (1 - seen) * scale * unit)
    return unit if int(failed) or not bool(scale > 0) else lower


@dataclass(frozen=True)
class Spectra:
    """Error made by leaving out each direction of the outputs and of the inputs, strongest first (HOSVD)."""

    outer: Tensor
    inner: Tensor

    def error(self, outer: int, inner: int) -> float:
        """An upper bound of the error of the two ranks together."""
        return float(self.outer[outer:].sum() + self.inner[inner:].sum())


def spectra(weight: Tensor, root: Tensor, metric: Metric) -> Spectra:
    """What each rank would lose.

    Args:
        weight: (out, in, *kernel).
        root: (in, in), see `input_root`; errors are those of outputs under inputs of these moments.
        metric: which errors of the outputs matter.
    """
    seen = whitened(weight, root, metric)
    outer, inner = (_unfolded(seen, mode) for mode in (0, 1))
    return Spectra(*(torch.linalg.eigvalsh(flat @ flat.T).flip(0).clamp(min=0) for flat in (outer, inner)))


def tucker(weight: Tensor, root: Tensor, metric: Metric, outer: int, inner: int, sweeps: int = 3) -> Tucker:
    """Tucker-2 by truncated HOSVD, improved by alternating least squares (HOOI, De Lathauwer et al., 2000).

    Args:
        weight: (out, in, *kernel).
        root: (in, in), see `input_root`; the identity approximates the weight itself.
        metric: which errors of the outputs matter.
        outer: rank of the outputs.
        inner: rank of the inputs.
        sweeps: of alternating improvement; each lowers the error or leaves it.

    >>> from tersor.factor.gradients import flat_metric
    >>> weight = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    >>> made = tucker(weight, torch.eye(3, dtype=torch.float64), flat_metric(4), 4, 3)
    >>> torch.allclose(made.weight, weight)
    True
    """
    seen = whitened(weight, root, metric)
    right = _directions(seen, 1, inner)
    left = _directions(seen, 0, outer)
    for _ in range(sweeps):
        left = _directions(torch.einsum("oik,iq->oqk", seen, right), 0, outer)
        right = _directions(torch.einsum("oik,op->pik", seen, left), 1, inner)
    core = torch.einsum("oik,op,iq->pqk", seen, left, right).unflatten(2, weight.shape[2:])
    # Back from white inputs to those that the layer reads.
    return _balanced(metric.out_of(left), core, torch.linalg.solve_triangular(root, right.T, upper=False, left=False))


def _balanced(outer: Tensor, core: Tensor, inner: Tensor) -> Tucker:
    """Unit columns outside and unit rows inside, so that no factor overflows in half precision."""
    left, right = outer.norm(dim=0).clamp(min=1e-300), inner.norm(dim=1).clamp(min=1e-300)
    scaled = torch.einsum("pqk,p,q->pqk", core.flatten(2), left, right).reshape(core.shape)
    return Tucker(outer / left, scaled, inner / right[:, None])


def whitened(weight: Tensor, root: Tensor, metric: Metric) -> Tensor:
    """(out, in, taps): the weight under white inputs, with all errors alike."""
    white = torch.einsum("oik,ij->ojk", weight.double().flatten(2), root)
    return metric.into(white.flatten(1)).reshape(white.shape)


def _unfolded(value: Tensor, mode: int) -> Tensor:
    return value.movedim(mode, 0).flatten(1)


def _directions(value: Tensor, mode: int, rank: int) -> Tensor:
    """The strongest directions of one mode, orthonormal columns."""
    flat = _unfolded(value, mode)
    return torch.linalg.eigh(flat @ flat.T).eigenvectors.flip(1)[:, :rank]
