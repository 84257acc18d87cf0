"""What an attention and what stands for it are predicted to take, from the kernels that each is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from tersor.attention.form import Form, Mixed, dense_attention
from tersor.attention.site import Site
from tersor.cost.launches import Launch, launches
from tersor.target import Target

FLASH = ("triton", "tensorrt", "inductor", "eager")
"""Backends whose attention does not write its scores to memory."""

PASSES = 6
"""Times that scores go through memory where they are written: product, mask, softmax twice, product."""

EXPONENTIAL = 24
"""Operations that one element of softmax counts for."""

RATE = 5e10
"""Operations a second of one thread of a CPU whose data sheet is not known."""

LAUNCH = 3e-6
"""Seconds that a runtime takes to start one operator, where the data sheet does not say."""


CACHE = 1 << 25
"""Bytes of the last-level cache, where the data sheet does not say."""

NEAR = 4.0
"""How many times faster than memory the cache is."""


def seconds(parts: Sequence[tuple[Sequence[int], Form]], site: Site, target: Target, backend: str) -> float:
    """Predicted time of a module of forms in place of an attention of this shape."""
    return graph_seconds(traced(parts, site), target, backend)


def graph_seconds(graph: fx.Graph, target: Target, backend: str) -> float:
    """Predicted time of a graph at its example sizes."""
    return sum(_seconds(launch, target, backend) for launch in launches(graph, backend))


def dense_seconds(site: Site, target: Target, backend: str) -> float:
    """Predicted time of the attention itself."""
    form = Form(dense_attention, {"causal": site.causal, "scale": site.scale})
    return seconds([(range(site.heads), form)], site, target, backend)


def traced(parts: Sequence[tuple[Sequence[int], Form]], site: Site) -> fx.Graph:
    """The operators of forms at one shape, with fake values; nothing is computed."""
    query = torch.empty(site.batch, site.heads, site.rows, site.width, dtype=site.dtype)
    key = torch.empty(site.batch, site.shared, site.columns, site.width, dtype=site.dtype)
    value = torch.empty(site.batch, site.shared, site.columns, site.depth, dtype=site.dtype)
    operands = [query, key, value]
    if site.mask != "none":
        batch, heads = site.batch if site.mask_batch else 1, site.heads if site.mask_heads else 1
        operands.append(torch.empty(batch, heads, site.rows if site.mask == "rows" else 1, site.columns))
    module = Mixed(parts)
    with torch.no_grad():
        return make_fx(lambda *given: module(*given), tracing_mode="fake", _allow_non_fake_inputs=True)(*operands).graph


def _seconds(launch: Launch, target: Target, backend: str) -> float:
    rate = target.rate("float32") or RATE * target.threads
    bandwidth = target.bandwidth or rate / target.balance
    work, moved = launch.flops, launch.bytes
    scores = float(launch.groups * launch.m * launch.n)
    if launch.kind == "attention":
        work += EXPONENTIAL * scores
        moved += 0.0 if backend in FLASH else 4 * PASSES * scores
    elif launch.kind == "softmax":
        work += EXPONENTIAL * scores
    near = NEAR if moved < (target.cache or CACHE) / 2 else 1.0
    return max(work / rate, moved / near / bandwidth) + (target.launch or LAUNCH)
