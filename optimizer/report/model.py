"""The report as data: what was done, what was not, why, and how that was checked. Renderers live beside it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1


@dataclass
class SiteRecord:
    """One place in the graph, and what was done there or why nothing was."""

    node: str
    detail: str
    origin: str = ""


@dataclass
class Parity:
    """Largest differences between two runs on the same inputs.

    Attributes:
        what: which two, e.g. "after fold-batch-norm against the original".
        binding: sizes of the dynamic dimensions, by name.
        outputs: per output name: largest absolute difference, largest relative to the output's scale, what is allowed.
        passed: whether every output is within its tolerance.
        inputs: what was done to the example inputs besides, such as "with masks that hide something".
    """

    what: str
    binding: dict[str, int]
    outputs: dict[str, dict[str, float]]
    passed: bool
    inputs: str = ""


@dataclass
class LayerError:
    """What computing one layer on integers does. Errors are energies, relative to that of what is compared.

    Attributes:
        node: its name; ``origin`` is where it came from.
        work: its share of the program's multiply-adds.
        kept: whether it is computed on integers; else it stays in floating point, for ``reason``.
        local: error of its own result with everything quantized; None where it was not looked at, as the others.
        alone: error of the outputs with only this layer quantized.
        together: error of the outputs with this layer and all before it quantized.
    """

    node: str
    origin: str
    work: float
    kept: bool
    reason: str = ""
    local: float | None = None
    alone: float | None = None
    together: float | None = None


@dataclass
class PrecisionRecord:
    """Where the error of a quantized program comes from, in execution order, and what stays in floating point for it.

    Attributes:
        weights, activations: formats.
        reason: why the weights have this format, where that was decided for the user.
        returned: share of the program's multiply-adds that stay in floating point to save precision.
        layers: every layer that could be quantized.
    """

    weights: str
    activations: str
    reason: str = ""
    returned: float = 0.0
    layers: list[LayerError] = field(default_factory=list)


@dataclass
class StepRecord:
    """One pass of the pipeline.

    Attributes:
        spec: the pass with its options, as it is written in a pipeline.
        status: "kept", "dropped" or "unchanged".
        reason: why it was dropped.
        exact: whether it may not move the outputs.
        sites, skipped: where it acted, and where it declined.
        nodes_before, nodes_after: operators in the graph.
        seconds: time to apply, refresh and judge.
        parity: the checks it went through.
        quality: what the program reaches in the metric or in agreement after a lossy pass; None after an exact one.
        repaired: what recovery did after a lossy pass, one line per layer.
        precision: where the error of a quantized program comes from; None after other passes.
    """

    spec: str
    status: str
    exact: bool
    reason: str = ""
    sites: list[SiteRecord] = field(default_factory=list)
    skipped: list[SiteRecord] = field(default_factory=list)
    nodes_before: int = 0
    nodes_after: int = 0
    seconds: float = 0.0
    parity: list[Parity] = field(default_factory=list)
    quality: float | None = None
    repaired: list[SiteRecord] = field(default_factory=list)
    precision: PrecisionRecord | None = None


@dataclass
class Timing:
    """Latency of one contestant: milliseconds, median of ``runs`` interleaved runs, and the quartile spread.

    ``predicted_ms`` is None where no cost model covers it.
    """

    name: str
    median_ms: float
    low_ms: float
    high_ms: float
    runs: int
    predicted_ms: float | None = None
    note: str = ""


@dataclass
class LayerTime:
    """One layer of what a backend compiled: ``kind`` is what it is and computes in; milliseconds of one run."""

    name: str
    kind: str
    ms: float


@dataclass
class GroupRecord:
    """Dimensions of the original that are the same thing.

    Attributes:
        name: the first weight that has it.
        kind: what it is for: channels, hidden, heads, head-dim, width, experts or tokens.
        size: how many indices it has.
        members: dimensions of weights, as ``name[dimension]``.
        producers, consumers: nodes that make it, and that sum over it.
        spans: nodes that compute over it as a whole.
        pin: why it may not be cut; empty where it may.
    """

    name: str
    kind: str
    size: int
    members: list[str]
    producers: list[str]
    consumers: list[str]
    spans: list[str]
    pin: str


@dataclass
class QualityRecord:
    """What lossy passes spent: ``name`` is "metric" or "agreement", ``budget`` the share that may be lost."""

    name: str
    before: float
    after: float
    budget: float


@dataclass
class TrialRecord:
    """One pipeline that the planner looked at. Times are relative to the original's on its fastest backend.

    Attributes:
        passes: the chosen passes with their settings, without the exact ones around them; empty for these alone.
        status: "chosen", "front" (none is faster without losing more), "beaten", "no gain", "too lossy", "failed",
            "nothing to do" or "not tried".
        reason: why it was not chosen.
        predicted, measured: its time; None where there is none.
        low, high: 95 % confidence interval of what was measured.
        quality, lost: in the metric or in agreement, and the share of the original's that is gone.
        expected, expected_lost: time and loss if its passes did not touch each other; None for single passes.
        backend: that it was measured on.
        seconds: what the trial took.
    """

    passes: str
    status: str
    reason: str = ""
    predicted: float | None = None
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    quality: float | None = None
    lost: float | None = None
    expected: float | None = None
    expected_lost: float | None = None
    backend: str = ""
    seconds: float = 0.0


@dataclass
class ContributionRecord:
    """What one pass of the plan does there: the plan without it, beside the plan.

    Attributes:
        spec: the pass with its options.
        time: how many times longer the plan takes without it; None where that was not measured.
        lost: share of the quality that it costs; negative where it helps.
    """

    spec: str
    time: float | None
    lost: float | None


@dataclass
class PlanRecord:
    """What the planner was asked, looked at and chose.

    Attributes:
        chosen: the chosen passes; empty where the exact ones alone are the best.
        original_ms: milliseconds of the original on its fastest backend; None where nothing was measured or known.
        wanted: latency that was asked for, relative to the original's; None where the fastest was.
        budget: share of the quality that may be lost.
        verdict: whether the latency was reached, and how far it is off where not.
        trials: every pipeline, and every setting that was not tried.
        contributions: of each chosen pass.
        study: where the trials are kept; empty where nowhere.
        command: what makes the same result without a search.
    """

    chosen: str
    original_ms: float | None
    wanted: float | None
    budget: float
    verdict: str = ""
    trials: list[TrialRecord] = field(default_factory=list)
    contributions: list[ContributionRecord] = field(default_factory=list)
    study: str = ""
    command: str = ""

    @property
    def front(self) -> list[TrialRecord]:
        """The pipelines that none is faster than without losing more, the fastest first."""
        found = [trial for trial in self.trials if trial.status in ("chosen", "front")]
        return sorted(found, key=lambda trial: trial.measured or 0.0)


@dataclass
class RooflineLayer:
    """One launch: operations, bytes, predicted seconds, and the least that they can be."""

    name: str
    kind: str
    dtype: str
    operations: float
    bytes: float
    seconds: float
    bound: float
    origin: str = ""


@dataclass
class RooflineRecord:
    """What a device can do at most, and the launches of a program under it, all predicted.

    Attributes:
        title: "before" or "after".
        target, backend: which device, and whose fusion rules hold.
        rates: peak operations per second by dtype.
        bandwidth: bytes per second of memory; ``near`` that of the fastest cache that was measured.
        layers: in execution order.
    """

    title: str
    target: str
    backend: str
    rates: dict[str, float]
    bandwidth: float
    near: float
    layers: list[RooflineLayer] = field(default_factory=list)


@dataclass
class GraphPicture:
    """A graph to draw: nodes with operator, shape, origin and a mark ("", "changed", "added", "removed"); edges.

    ``note`` says how many nodes were left out of the drawing, where some were.
    """

    nodes: list[dict[str, str]] = field(default_factory=list)
    edges: list[tuple[str, str]] = field(default_factory=list)
    note: str = ""


@dataclass
class ModelFacts:
    """Counts of one graph.

    Attributes:
        operators: how many of each operator.
        parameters: number of weights; ``parameter_bytes`` their size.
        flops: floating-point operations of matrix products, convolutions and attention in one run at the example
            sizes (a multiply-add is two); None if unknown.
        elementwise: operations of everything else, one per element; ``uncounted`` is how many nodes are in neither.
        inputs, outputs: name, dtype and shape as text.
    """

    operators: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    parameter_bytes: int = 0
    flops: int | None = None
    inputs: list[dict[str, str]] = field(default_factory=list)
    outputs: list[dict[str, str]] = field(default_factory=list)
    elementwise: int | None = None
    uncounted: int = 0


@dataclass
class Report:
    """Everything that one optimization did.

    Attributes:
        model: what the user gave; ``model_hash`` identifies its graph and weights.
        command: text that reproduces the run.
        pipeline: the passes, in one string.
        layers: of what was kept, in execution order, where its backend times them one by one.
        stages: seconds by stage (capture, passes, compile, measure, ...).
        notes: what the user should know, in order.
        environment: versions, machine, date, seeds.
        kept: name of the timing of what was kept; empty where nothing was measured.
        quality: what lossy passes spent; None where there were none.
        groups: the original's groups of axes, where lossy passes ran.
        plan: how the pipeline was chosen; None where the user gave it.
        rooflines: the launches before and after, where the target's rates are known.
    """

    model: str
    pipeline: str
    target: str
    backend: str = ""
    command: str = ""
    model_hash: str = ""
    data_hash: str = ""
    steps: list[StepRecord] = field(default_factory=list)
    before: ModelFacts = field(default_factory=ModelFacts)
    after: ModelFacts = field(default_factory=ModelFacts)
    parity: list[Parity] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    layers: list[LayerTime] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    picture_before: GraphPicture = field(default_factory=GraphPicture)
    picture_after: GraphPicture = field(default_factory=GraphPicture)
    kept: str = ""
    quality: QualityRecord | None = None
    groups: list[GroupRecord] = field(default_factory=list)
    plan: PlanRecord | None = None
    rooflines: list[RooflineRecord] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as written to JSON; the schema is ``docs/report-schema.json``."""
        return {"schema": SCHEMA_VERSION, **asdict(self)}

    def text(self) -> str:
        """What a terminal shows."""
        from tersor.report.text import render_text

        return render_text(self)

    def json(self) -> str:
        """What a program reads."""
        from tersor.report.to_json import render_json

        return render_json(self)

    def html(self, path: str | Path) -> Path:
        """Write one self-contained page; raises OutputError."""
        from tersor.report.html import write_html

        return write_html(self, path)

    def __str__(self) -> str:
        return self.text()
