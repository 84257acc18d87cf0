"""Two thin layers instead of one, through the principal components of its outputs on calibration data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tersor.factor.gradients import Metric, flat_metric
from tersor.factor.observe import Moments


@dataclass(frozen=True)
class Components:
    """Directions of a layer's output space, strongest first.

    Attributes:
        basis: (out, q) the directions as unit columns, float64.
        dual: (q, out) what measures how far an output goes along each; ``dual @ basis`` is the identity.
        values: (q,) error that is made by leaving out each.
        mean: (out,) average output; None where no data was seen.
    """

    basis: Tensor
    dual: Tensor
    values: Tensor
    mean: Tensor | None = None

    def tail(self, rank: int) -> float:
        """Error made by leaving out all but the first ``rank`` directions."""
        return float(self.values[rank:].sum())

    def kept(self, rank: int) -> float:
        """Share of the whole, 0 to 1, that the first ``rank`` directions hold."""
        return 1.0 - self.tail(rank) / max(float(self.values.sum()), 1e-300)

    def rank(self, share: float) -> int:
        """The smallest rank that holds a share of the whole.

        >>> unit = torch.eye(3)
        >>> Components(unit, unit, torch.tensor([7.0, 2.0, 1.0])).rank(0.85)
        2
        """
        wanted = share * float(self.values.sum()) * (1 - 1e-12)
        reached = self.values.cumsum(0) >= wanted
        return int(reached.int().argmax()) + 1 if bool(reached.any()) else len(self.values)


def of_weight(weight: Tensor, metric: Metric | None = None) -> Components:
    """Left singular vectors of an (out, in) weight: the components under inputs that are white noise."""
    return _of_root(weight.double(), metric)


def of_outputs(weight: Tensor, outputs: Moments, metric: Metric | None = None) -> Components:
    """Eigenvectors of the outputs' covariance (LiteASR, arXiv:2502.20583), as the metric sees it.

    The outputs' mean is kept exactly by the bias, so directions of the deviations only are needed. Few rows say little:
    the covariance is mixed with that under white inputs, by as many rows as there are outputs.

    Args:
        weight: (out, in), of any kernel flattened.
        outputs: of the layer on calibration data.
        metric: which errors matter; by default all alike, in units of the outputs' variance.
    """
    weight = weight.double()
    covariance = mixed(outputs.covariance, weight @ weight.T, outputs.count)
    metric = metric or flat_metric(len(weight), float(covariance.trace().clamp(min=1e-300)) ** -0.5)
    values, vectors = torch.linalg.eigh(metric.into(metric.into(covariance).T))
    return _components(vectors.flip(1), values.flip(0), metric, outputs.mean)


def of_inputs(weight: Tensor, bias: Tensor | None, inputs: Moments, metric: Metric | None = None) -> Components:
    """The same components from the inputs' covariance, for layers with fewer inputs than outputs.

    Left singular vectors of ``weight @ cholesky(covariance)`` (SVD-LLM, arXiv:2403.07378).
    """
    weight = weight.double()
    covariance = mixed(inputs.covariance, torch.eye(inputs.width, dtype=torch.float64), inputs.count)
    lower, failed = torch.linalg.cholesky_ex(covariance)
    mean = weight @ inputs.mean
    return _of_root(weight if int(failed) else weight @ lower, metric, mean if bias is None else mean + bias.double())


def factors(
    weight: Tensor, bias: Tensor | None, components: Components, rank: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The layer projected on its first components, ``second @ (first @ x) + shift``.

    Args:
        weight: (out, in).
        bias: (out,) or None.
        components: of the layer's outputs.
        rank: how many components to keep.

    Returns:
        first (rank, in), second (out, rank) and shift (out,), which is None where the layer has no bias and no mean
        is known; float64. The mean output is the same as before.

    >>> weight = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    >>> first, second, shift = factors(weight, None, of_weight(weight), 1)
    >>> torch.allclose(second @ first, weight.double()), shift
    (True, None)
    """
    second, dual = components.basis[:, :rank], components.dual[:rank]
    shift = None if bias is None else bias.double()
    if components.mean is not None:
        own = components.mean if shift is None else components.mean - shift
        shift = components.mean - second @ (dual @ own)
    return dual @ weight.double(), second, shift


def _of_root(root: Tensor, metric: Metric | None, mean: Tensor | None = None) -> Components:
    """Components of a covariance that is given as ``root @ root.T``."""
    metric = metric or flat_metric(len(root), float(root.norm().clamp(min=1e-150)) ** -1)
    basis, values, _ = torch.linalg.svd(metric.into(root), full_matrices=False)
    return _components(basis, values.square(), metric, mean)


def _components(vectors: Tensor, values: Tensor, metric: Metric, mean: Tensor | None) -> Components:
    basis, dual = metric.out_of(vectors), metric.into(vectors).T
    # Unit columns: whatever the metric's scale, neither factor overflows in half precision.
    scale = basis.norm(dim=0).clamp(min=1e-300)
    return Components(basis / scale, dual * scale[:, None], values.clamp(min=0), mean)


def mixed(seen: Tensor, prior: Tensor, count: int) -> Tensor:
    """Data and prior, weighted by the number of rows and the width; both symmetric, the prior scaled to the data."""
    share = count / (count + seen.shape[0])
    scale = seen.trace() / prior.trace().clamp(min=1e-300)
    made = share * seen + (1 - share) * scale * prior
    return (made + made.T) / 2
