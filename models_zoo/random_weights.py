"""Makes freshly built models fit for tests: no constant parameters, and batch norms that know their data.

Constructors leave biases at 0, norms at 1 and layer scales at 1e-6, so that a rewrite which drops a bias or a scale
would go unseen. And with running statistics of 0 and 1 the signal of a deep network dies out or blows up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

LARGEST = 1_000_000  # elements; no bias, norm or embedding of a constant is longer


def enliven(model: nn.Module, run: Callable[[], Any], generator: torch.Generator) -> None:
    """Changes the model in place: constant parameters are moved, batch norms take the statistics of one ``run()``."""
    with torch.no_grad():
        for parameter in model.parameters():
            if _is_constant(parameter):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
        settle_batch_norms(model, run)


def settle_batch_norms(model: nn.Module, run: Callable[[], Any]) -> None:
    """Sets the running mean and variance of each batch norm to what it sees in one ``run()``."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    usual = [norm.momentum for norm in norms]
    if not norms:
        return
    for norm in norms:
        norm.train().momentum = 1.0
    run()
    for norm, momentum in zip(norms, usual, strict=True):
        norm.eval().momentum = momentum
        variance = norm.running_var
        assert variance is not None
        # A channel that was silent in this run must not be blown up in the next one.
        typical = variance.mean()
        variance.clamp_(min=float(0.1 * typical)) if typical > 0 else variance.fill_(1.0)


def _is_constant(parameter: Tensor) -> bool:
    if not parameter.is_floating_point() or not 1 < parameter.numel() <= LARGEST:
        return False
    return bool(parameter.min() == parameter.max())
