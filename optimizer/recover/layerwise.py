"""Repairs that go node by node in execution order, all in one pass over the calibration inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import fx

from tersor.program import Program
from tersor.progress import Progress, Silent
from tersor.recover.correspondence import Correspondence
from tersor.recover.lockstep import Lockstep, Meeting
from tersor.recover.records import LayerRecord
from tersor.recover.samples import Samples


class Repair(Protocol):
    """Something that can be done to one node."""

    def applies(self, node: fx.Node) -> bool:
        """Whether it is for nodes like this."""

    def __call__(self, program: Program, meeting: Meeting, samples: Samples) -> LayerRecord | None:
        """Repair the node in place and set ``meeting.changed``; None where there is nothing to repair."""


def layerwise(
    original: Program,
    damaged: Program,
    correspondence: Correspondence,
    samples: Samples,
    repairs: Sequence[Repair],
    progress: Progress | None = None,
) -> tuple[Program, list[LayerRecord]]:
    """Repair a copy of ``damaged``; returns it and one record for each node that was damaged.

    Costs two runs of each program over the samples at most, and memory for the activations that are alive at one node
    for all samples of both programs.
    """
    program = damaged.clone()
    shown = progress or Silent()
    total = sum(any(repair.applies(node) for repair in repairs) for node in program.nodes)
    shown.stage("repair", total)
    records = []
    for meeting in Lockstep(original, program, correspondence, samples.batches):
        repair = next((item for item in repairs if item.applies(meeting.node)), None)
        if repair is None:
            continue
        record = repair(program, meeting, samples)
        shown.advance(1, meeting.node.name)
        if record is not None:
            records.append(record)
    program.prune_weights()
    program.changed()
    return program, records
