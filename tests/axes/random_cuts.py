"""Capturing random networks, and cutting programs at random places."""

from __future__ import annotations

import functools

import torch

from tersor.axes import analyze, cut, groups
from tersor.capture import load
from tersor.program import Program
from tests.axes.random_blocks import Block, RandomNetwork


@functools.cache
def captured(seed: int, blocks: tuple[Block, ...] = ()) -> Program:
    """A random network; clone it before cutting."""
    model = RandomNetwork(seed, list(blocks)).eval()
    inputs = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return load(model, (inputs,))


def random_cut(program: Program, seed: int, chance: float = 0.8) -> None:
    """Cut free groups somewhere, reordering what may be reordered; raises where the proof fails."""
    axes = analyze(program)
    generator = torch.Generator().manual_seed(seed)
    kept = {}  # type: ignore[var-annotated]
    for group in groups(program, axes):
        skipped = bool(kept) and float(torch.rand((), generator=generator)) >= chance
        if group.free and not skipped:
            count = int(torch.randint(group.least, group.size, (), generator=generator))
            stay = torch.randperm(group.size, generator=generator)[:count]
            kept[group.axis] = stay.sort().values if group.axis.ordered else stay
    assert kept
    cut(program, axes, kept)
