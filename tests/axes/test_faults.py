"""Wrong flow rules on purpose: the proof of a cut notices each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from torch import fx

from tersor.axes import indexing
from tersor.axes.elementwise import elementwise
from tersor.axes.flow import RULES, Flow, Value, fresh
from tersor.axes.terms import Cat, Product, Term, resolve, size
from tersor.errors import RewriteError
from tests.axes import random_blocks as blocks
from tests.axes.random_cuts import captured, random_cut

pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes? .*_flat_weights:UserWarning")

Patch = pytest.MonkeyPatch
Fault = Callable[[Patch], None]


def changed(dim: int, change: Callable[[Term], Term], *names: str) -> Fault:
    """Rules that describe one dimension of their results wrongly."""

    def wrong(right: Any, node: fx.Node, flow: Flow) -> Value:
        made = right(node, flow)
        assert isinstance(made, tuple)
        return tuple(change(term) if i == dim % len(made) else term for i, term in enumerate(made))

    def plant(patch: Patch) -> None:
        for name in names:
            patch.setitem(RULES, name, functools.partial(wrong, RULES.get(name, elementwise)))

    return plant


def swapped(term: Term) -> Term:
    """Parts or factors in the opposite order."""
    term = resolve(term)
    if isinstance(term, Cat):
        return Cat(tuple(reversed(term.parts)))
    return Product(tuple(reversed(term.factors))) if isinstance(term, Product) else term


def loose(term: Term) -> Term:
    """The same size, and no connection to anything."""
    return fresh(size(term))


def forgotten(verb: str, what: str) -> Fault:
    """What a rule does not record: a verb of `Flow`, for an argument or an operator."""

    def plant(patch: Patch) -> None:
        right = getattr(Flow, verb)

        def wrong(self: Flow, node: fx.Node, *rest: Any) -> None:
            if what != rest[0] and what not in str(node.target):
                right(self, node, *rest)

        patch.setattr(Flow, verb, wrong)

    return plant


def gates_inside(patch: Patch) -> None:
    """Rows of a recurrence's weights as (hidden, gate)."""
    right = Flow.split
    patch.setattr(Flow, "split", lambda flow, term, fast: right(flow, term, fast)[::-1])


def not_looked_up(patch: Patch) -> None:
    """Positions that are renumbered while what they point into is not."""
    patch.setattr(indexing, "look_up", lambda *_: None)


VIEWS = ("view", "_unsafe_view", "reshape", "flatten")

FAULTS: list[tuple[str, Fault, blocks.Block, int]] = [
    ("a concatenation in the wrong order", changed(1, swapped, "cat"), blocks.joined, 0),
    ("a channel shuffle in the wrong order", changed(1, swapped, *VIEWS), blocks.shuffled, 0),
    ("groups of a transposed convolution inside", changed(1, swapped, "conv_transpose2d"), blocks.transposed, 0),
    ("heads and head dimensions exchanged", changed(-1, swapped, *VIEWS), blocks.attention, 0),
    ("copies of shared heads outside", changed(1, swapped, "repeat_interleave"), blocks.attention, 5),
    ("flattened with channels inside", changed(-1, swapped, *VIEWS), blocks.squeezed, 1),
    ("gates of a recurrence inside", gates_inside, blocks.recurrent, 1),
    ("experts not renumbered", not_looked_up, blocks.routed, 1),
    ("a residual sum that ties nothing", changed(1, loose, "add"), blocks.residual, 0),
    ("pixel shuffle that ties nothing", changed(1, loose, "pixel_shuffle"), blocks.pixels, 0),
    ("sizes of a split forgotten", forgotten("literal", "split_sizes"), blocks.parted, 0),
    ("sizes of a view forgotten", forgotten("sizes", "size"), blocks.shuffled, 0),
    ("number of groups forgotten", forgotten("literal", "groups"), blocks.depthwise, 0),
    ("scale of the softmax forgotten", forgotten("literal", "scale"), blocks.attention, 0),
    ("what a norm runs over forgotten", forgotten("span", "rms_norm"), blocks.transformer_mlp, 0),
    ("what a softmax runs over forgotten", forgotten("span", "softmax"), blocks.channel_attention, 0),
    ("a sum forgotten", forgotten("contract", "conv2d"), blocks.squeezed, 0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "plant", "block", "seed"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_the_proof_notices(name: str, plant: Fault, block: blocks.Block, seed: int, monkeypatch: Patch) -> None:
    program = captured(seed, (block,))
    plant(monkeypatch)
    # A single cut may by chance keep indices that lie in the same place in the wrong order.
    with pytest.raises(RewriteError):
        for cut_seed in range(4):
            random_cut(program.clone(), cut_seed, chance=1.0)
