"""The Nystrom approximation of the attention matrix from landmarks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tersor.attention.blocks import cut, repeated


def landmark_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, *, landmarks: int, steps: int = 6,
    scale: float | None = None,
) -> Tensor:  # fmt: skip
    """softmax(Q K~') pinv(softmax(Q~ K~')) softmax(Q~ K') V (Nystromformer, arXiv:2102.03902).

    Landmarks Q~ and K~ are the means of ``landmarks`` segments; the pseudo-inverse is iterated (Razavi et al., 2014).

    Args:
        query, key: [B, H, L, E]; keys and values may have fewer heads.
        value: [B, H, L, V].
        bias: must be None: what a masked key does to a landmark is not defined.
        landmarks: segments.
        steps: of the iteration.

    Returns:
        [B, H, L, V].

    >>> x = torch.randn(1, 1, 8, 4)
    >>> full = F.scaled_dot_product_attention(x, x, x)
    >>> torch.allclose(landmark_attention(x, x, x, landmarks=8, steps=30), full, atol=1e-3)
    True
    """
    assert bias is None
    key, value = repeated(key, query.shape[1]), repeated(value, query.shape[1])
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    asked, known = (segment_means(x, landmarks) for x in (query, key))
    core = (asked @ known.mT * scale).softmax(-1)
    told = F.scaled_dot_product_attention(asked, key, value, scale=scale)
    return F.scaled_dot_product_attention(query, known, pseudo_inverse(core, steps) @ told, scale=scale)


def segment_means(x: Tensor, count: int) -> Tensor:
    """[B, H, L, E] to the means of ``count`` segments of consecutive tokens, the last ones shorter.

    >>> segment_means(torch.tensor([0.0, 2.0, 5.0]).reshape(1, 1, 3, 1), 2).flatten().tolist()
    [1.0, 5.0]
    """
    length = x.shape[2]
    size = -(-length // count)
    sums = cut(x, size).sum(3)
    held = (length - torch.arange(sums.shape[2], device=x.device) * size).clamp(max=size)
    return sums / held.to(x.dtype)[:, None]


def pseudo_inverse(core: Tensor, steps: int = 6) -> Tensor:
    """The Moore-Penrose inverse of [..., m, m] by a cubically converging iteration (Nystromformer, equation 15).

    >>> pseudo_inverse(torch.eye(2) * 2, 12)
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]])
    """
    size = core.abs().sum(-2).amax(-1) * core.abs().sum(-1).amax(-1)
    found = core.mT / size[..., None, None]
    one = torch.eye(core.shape[-1], dtype=core.dtype, device=core.device)
    for _ in range(steps):
        product = core @ found
        found = 0.25 * found @ (13 * one - product @ (15 * one - product @ (7 * one - product)))
    return found
