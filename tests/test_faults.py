"""The verifier is tested by planting faults: each must be dropped, with a reason, and named by bisect."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from tersor.bisect import bisect
from tersor.capture.torch import capture_module
from tersor.context import Context
from tersor.errors import RewriteError
from tersor.pipeline import Reference, run
from tersor.program import Program
from tests.faulty import FAULTS, Fault, Victim


@pytest.fixture(scope="module")
def program() -> Program:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    return capture_module(Victim().eval(), (torch.randn(3, 5, 8),), {"x": {0: batch, 1: length}})


@pytest.fixture(scope="module")
def reference(program: Program) -> Reference:
    return Reference.of(program)


def test_there_are_enough_faults() -> None:
    assert len({fault.name for fault in FAULTS}) >= 20


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_pipeline_drops_it(fault: Fault, program: Program, reference: Reference) -> None:
    outcome = run(program, [fault], reference)
    step = outcome.steps[0]
    assert step.sites, "the fault found nothing to break"
    assert step.status == "dropped", step.parity
    assert step.reason
    assert outcome.program is program


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_bisect_names_it(fault: Fault, program: Program) -> None:
    harmless = Fault("harmless", "aten.relu.default", lambda p, n: None)
    culprit = bisect(program, [harmless, fault, harmless])
    assert culprit is not None
    assert culprit.site is not None and culprit.site.detail == fault.name


def test_a_right_rewrite_is_kept(program: Program, reference: Reference) -> None:
    harmless = Fault("harmless", "aten.relu.default", lambda p, n: None)
    outcome = run(program, [harmless], reference)
    assert outcome.steps[0].status == "kept"
    assert bisect(program, [harmless]) is None


def test_bisect_finds_the_one_wrong_site_of_many(program: Program) -> None:
    class WrongAtGelu:
        exact: ClassVar[bool] = True

        def __call__(self, program: Program, context: Context) -> None:
            for node in list(program.graph.nodes):
                if node.op == "call_function" and context.take(node, "renamed") and "gelu" in node.name:
                    node.replace_all_uses_with(node.args[0])

    culprit = bisect(program, [WrongAtGelu()])
    assert culprit is not None and culprit.site is not None
    assert "gelu" in culprit.site.node


def test_a_pass_that_raises_is_dropped(program: Program, reference: Reference) -> None:
    def explode(edited: Program, node: torch.fx.Node) -> None:
        raise ZeroDivisionError("no")

    outcome = run(program, [Fault("raises", "aten.relu.default", explode)], reference)
    assert outcome.steps[0].status == "dropped"
    assert "ZeroDivisionError" in outcome.steps[0].reason


def test_writing_into_a_weight_ends_the_run() -> None:
    own = capture_module(Victim().eval(), (torch.randn(3, 5, 8),))

    def scribble(edited: Program, node: torch.fx.Node) -> None:
        edited.weights["out.weight"].zero_()

    with pytest.raises(RewriteError, match="wrote into a weight"):
        run(own, [Fault("scribbles", "aten.relu.default", scribble)])
