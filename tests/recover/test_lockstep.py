"""Two programs side by side: the right values meet, each node runs once, and dead values are dropped."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import fx, nn

from tersor.recover import Correspondence
from tersor.recover.lockstep import Lockstep, Side, live_bytes
from tersor.rewrite_values import key
from tests.recover.models import batches, cut_groups, first_half, program_of


def deep(depth: int = 6) -> nn.Module:
    return nn.Sequential(*(part for _ in range(depth) for part in (nn.Linear(8, 8), nn.ReLU()))).eval()


def test_meetings_hold_the_values_of_both_programs() -> None:
    calibration = batches((8,), count=2)
    original = program_of(deep(2), calibration[0][0])
    damaged, link = cut_groups(original, first_half)
    met = {m.node.name: m.targets() for m in Lockstep(original, damaged, link, calibration)}
    names = [node.name for node in original.nodes if key(node) == "linear"]
    assert set(names) <= set(met)
    hidden = nn.functional.linear(calibration[1][0], original.weights["0.weight"], original.weights["0.bias"])
    found = met[names[0]]
    assert found is not None
    torch.testing.assert_close(found[1], hidden[:, :4])


def test_a_repair_is_seen_by_the_next_layers() -> None:
    calibration = batches((8,), count=2)
    original = program_of(deep(2), calibration[0][0])
    damaged = original.clone()
    damaged.weights["0.weight"] = original.weights["0.weight"] * 2
    errors = []
    for meeting in Lockstep(original, damaged, Correspondence(), calibration):
        targets = meeting.targets()
        assert targets is not None
        errors.append(float((targets[0] - meeting.outputs[0]).abs().max()))
        if len(errors) == 1:
            damaged.weights["0.weight"] = original.weights["0.weight"]
            meeting.changed = True
    assert errors[0] > 0.01 and max(errors[1:]) == 0


def test_each_node_runs_once_and_values_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = batches((8,), count=2)
    original = program_of(deep(), calibration[0][0])
    ran: Counter[fx.Node] = Counter()
    compute = Side.compute

    def counted(side: Side, node: fx.Node) -> list[Any]:
        ran[node] += 1
        return compute(side, node)

    monkeypatch.setattr(Side, "compute", counted)
    for meeting in Lockstep(original, original.clone(), Correspondence(), calibration):
        assert max(len(meeting.damaged.values), len(meeting.original.values)) <= 3
    assert set(ran.values()) == {1}


def test_shapes_that_do_not_correspond_are_no_target() -> None:
    calibration = batches((8,), count=1)
    original = program_of(deep(2), calibration[0][0])
    damaged, _ = cut_groups(original, first_half)
    met = {m.node.name: m.targets() for m in Lockstep(original, damaged, Correspondence(), calibration)}
    assert [found is None for found in met.values()] == [True, True, False, False]


def test_renamed_nodes_meet_by_the_correspondence() -> None:
    calibration = batches((8,), count=1)
    original = program_of(deep(1), calibration[0][0])
    damaged = original.clone()
    linear = next(node for node in damaged.nodes if key(node) == "linear")
    old, linear.name = linear.name, "another"
    unnamed = {m.node.name for m in Lockstep(original, damaged, Correspondence(), calibration)}
    named = {m.node.name for m in Lockstep(original, damaged, Correspondence(names={"another": old}), calibration)}
    assert "another" in named - unnamed


def test_live_bytes_counts_what_is_alive_at_once() -> None:
    program = program_of(deep(), torch.randn(16, 8))
    assert live_bytes(program) == 2 * 16 * 8 * 4
