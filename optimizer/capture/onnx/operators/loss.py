"""Losses: negative log likelihood and softmax cross entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tersor.capture.onnx.operators.precision import as_type, at_least_single
from tersor.capture.onnx.operators.scalars import wanted
from tersor.capture.onnx.registry import Node, operator

# No class index is as low as this one: nothing is ignored.
_NONE_IGNORED = -(2**31)


def _nll(node: Node, log_probability: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    x = at_least_single(log_probability)
    loss = F.nll_loss(
        x,
        as_type(target, torch.int64),
        None if weight is None else as_type(weight, x.dtype),
        ignore_index=node.get("ignore_index", _NONE_IGNORED),
        reduction=node.get("reduction", "mean"),
    )
    return as_type(loss, log_probability.dtype)


@operator("NegativeLogLikelihoodLoss")
def _nll_loss(node: Node, x: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    return _nll(node, x, target, weight)


@operator("SoftmaxCrossEntropyLoss")
def _cross_entropy(
    node: Node, scores: Tensor, labels: Tensor, weight: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    log_probability = F.log_softmax(scores, 1)
    loss = _nll(node, log_probability, labels, weight)
    return (loss, log_probability) if wanted(node, 1) else loss
