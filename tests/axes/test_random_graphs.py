"""Random networks, and those of the zoo: whatever free groups lose, the cut is the zeroed original."""

from __future__ import annotations

import pytest

from tersor.axes import analyze
from tersor.capture import load
from tersor.models_zoo.catalog import load as load_entry
from tersor.models_zoo.catalog import names
from tests.axes.random_blocks import BLOCKS, Block
from tests.axes.random_cuts import captured, random_cut

# torch.export copies a recurrent layer's list of weights, and warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes? .*_flat_weights:UserWarning")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_each_block_is_cut_exactly(block: Block) -> None:
    assert not analyze(captured(0, (block,))).unknown
    random_cut(captured(0, (block,)).clone(), 0)


@pytest.mark.parametrize("seed", range(4))
def test_random_networks_are_cut_exactly(seed: int) -> None:
    random_cut(captured(seed).clone(), seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 200))
def test_many_random_networks_are_cut_exactly(seed: int) -> None:
    random_cut(captured(seed).clone(), seed)


@pytest.mark.parametrize("name", names("zoo"))
def test_zoo_models_are_cut_exactly(name: str) -> None:
    entry = load_entry(name)
    random_cut(load(entry.model, entry.inputs), 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", names("zoo"))
def test_zoo_models_are_cut_exactly_at_every_size(name: str) -> None:
    entry = load_entry(name)
    random_cut(load(entry.model, entry.inputs, entry.dynamic), 1)
