"""A report with something in every field, for the renderers."""

from itertools import pairwise

from tersor.report.model import (
    ContributionRecord,
    GraphPicture,
    ModelFacts,
    Parity,
    PlanRecord,
    Report,
    SiteRecord,
    StepRecord,
    Timing,
    TrialRecord,
)

HOSTILE = "<script>document.documentElement.dataset.hacked = 1</script>"


def node(name, operator="add", mark="", shape="[batch, 4]"):
    return {"name": name, "operator": operator, "shape": shape, "origin": "layer1.0", "mark": mark, "weights": ""}


def sample(name="zoo:digits-cnn"):
    done = [SiteRecord("clone", "a copy without effect")]
    skipped = [SiteRecord(f"view_{i}", "its result is an output", "head") for i in range(3)]
    ports = [{"name": "x", "dtype": "float32", "shape": "[batch, 4]"}]
    nodes = [("x", "input", ""), ("conv", "conv2d", "changed"), ("relu", "relu", "added"), ("output", "output", "")]
    parity = [
        Parity(
            "rewritten program against the original",
            {"batch": n},
            {"logits": {"absolute": 1e-7 * n, "relative": 1e-8, "allowed": 1e-5, "excess": 0.01 * n}},
            True,
        )
        for n in (2, 3, 5)
    ]
    refused = {"logits": {"absolute": float("inf"), "relative": float("nan"), "allowed": 0.0, "excess": float("inf")}}
    return Report(
        model=name,
        pipeline="canonicalize,fold-batch-norm",
        target="cpu",
        backend="onnxruntime",
        command=f"tersor optimize {name} -o out.onnx",
        model_hash="0123456789abcdef",
        data_hash="fedcba9876543210",
        steps=[
            StepRecord("canonicalize", "kept", True, "", done, skipped, 4, 3, 0.5),
            StepRecord("dead-code", "unchanged", True, nodes_before=3, nodes_after=3),
            StepRecord("fold-batch-norm", "dropped", True, "output 'logits' differs by 1", [], skipped[:1], 3, 3, 0.25),
        ],
        before=ModelFacts({"conv2d": 2, "clone": 1, "relu": 1}, 100, 400, 12_000, ports),
        after=ModelFacts({"conv2d": 2, "relu": 1}, 90, 360, 12_000),
        parity=[*parity, Parity("openvino against the original", {"batch": 2}, refused, False)],
        timings=[
            Timing("onnxruntime", 2.0, 1.9, 2.2, 100, 1.5),
            Timing("onnxruntime (original)", 3.0, 2.9, 3.2, 100, 2.5),
            Timing("eager (original)", 6.0, 5.9, 6.2, 100),
        ],
        stages={"capture": 1.0, "passes": 2.0},
        notes=["backend openvino was not used: it computes something else"],
        environment={"python": "3.11", "torch": "2.13.0", "date": "2026-11-20", "seed": "0"},
        picture_before=GraphPicture(
            [node("x", "input"), node("conv"), node("clone", "clone", "removed"), node("output", "output")],
            [("x", "conv"), ("conv", "clone"), ("clone", "output")],
        ),
        picture_after=GraphPicture(
            [node(*each) for each in nodes], [("x", "conv"), ("conv", "relu"), ("relu", "output")]
        ),
        kept="onnxruntime",
        plan=plan(),
    )  # fmt: skip


def plan():
    trials = [
        TrialRecord("prune,quantize", "chosen", "", 0.3, 0.4, 0.39, 0.41, 0.98, 0.01, 0.35, 0.008, "onnxruntime", 4.0),
        TrialRecord("quantize", "front", "loses 0.00% instead of 1.00%", 0.5, 0.55, 0.5, 0.6, 0.99, 0.0),
        TrialRecord("", "no gain", "no gain on this target", 0.99, 1.0, 0.98, 1.02, 0.99, 0.0),
        TrialRecord("prune{ratio=0.8}", "too lossy", "too lossy: it loses 5.00% of the 1.00%", lost=0.05, quality=0.94),
        TrialRecord("cast", "not tried", "unsupported: no kernels"),
    ]
    parts = [ContributionRecord("prune", 1.4, 0.01), ContributionRecord("quantize", None, None)]
    return PlanRecord(
        "prune,quantize", 3.0, 0.5, 0.01, "the latency is reached", trials, parts, "plans.sqlite3", "tersor optimize X"
    )


def hostile():
    report = sample(HOSTILE)
    report.notes.append(HOSTILE)
    report.steps[0].sites[0].node = report.steps[0].skipped[0].detail = HOSTILE
    report.before.operators[HOSTILE] = 1
    report.timings[0].note = report.timings[2].name = HOSTILE
    report.stages[HOSTILE] = 1.0
    report.plan.verdict = report.plan.study = report.plan.command = report.plan.contributions[0].spec = HOSTILE
    report.plan.trials[0].passes = report.plan.trials[1].reason = report.plan.trials[2].status = HOSTILE
    report.environment[HOSTILE] = HOSTILE
    report.picture_after.nodes[1]["name"] = report.picture_after.nodes[1]["operator"] = HOSTILE
    report.picture_after.edges = [("x", HOSTILE), (HOSTILE, "relu"), ("relu", "output")]
    return report


def large(nodes=2000):
    """A residual chain with one input that every block reads."""
    names = ["mask", *(f"node_{i}" for i in range(1, nodes))]
    edges = [(a, b) for a, b in pairwise(names)]
    edges += [(names[i], names[i + 5]) for i in range(1, nodes - 5, 5)]
    edges += [("mask", names[i]) for i in range(8, nodes, 10)]
    marked = {"node_1500": "changed", "node_700": "added"}
    report = sample()
    report.picture_after = GraphPicture([node(name, mark=marked.get(name, "")) for name in names], edges)
    return report
