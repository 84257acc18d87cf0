"""Operators measured one by one: models that run, differences of chains, files that come back or are ignored."""

import json

import numpy as np
import onnxruntime
import pytest

from tersor.target import Target
from tersor.targets import deep, profile
from tersor.targets.blocks import blocks, launches_of
from tersor.targets.probe_models import chain, model
from tersor.targets.probes import probes

HERE = Target(
    "cpu", "cpu", 1, rates={"float32": 1e12, "int8": 4e12}, bandwidth=1e11, cache=3e7, cache_bandwidth=1e12, units=1,
    source="a test",
)  # fmt: skip


def one_of_each():
    found = {(probe.kind, probe.dtype, probe.stride > 1, probe.a == 3): probe for probe in probes()}
    return [probe for probe in found.values() if probe.flops < 1e8]


def run(proto):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {item.name: np.ones(item.shape, np.float32) for item in session.get_inputs()}
    return session.run(None, feeds)


@pytest.mark.parametrize(
    "probe", one_of_each(), ids=lambda probe: f"{probe.kind}-{probe.dtype}-{probe.stride}-{probe.a}"
)
def test_every_kind_runs(probe):
    for apart in (False, True) if probe.kind in ("add", "function", "gate", "join", "linear") else (False,):
        assert all(np.isfinite(value).all() for value in run(model(probe, 2, apart=apart)))


def test_blocks_run_and_tell_what_they_launch():
    small = [block for block in blocks() if sum(part.flops for part in block) < 3e7]
    kinds = {part.kind for block in small for part in block}
    assert {"pointwise_conv", "depthwise", "heads", "linear", "scale"} <= kinds
    for block in small[::3]:
        assert all(np.isfinite(value).all() for value in run(chain(block, 1)))
        assert all(one.bytes > 0 for one in launches_of(block, True))


@pytest.fixture
def fast(monkeypatch):
    """A runtime in which every node takes ten microseconds and a call a hundred, and a short list of probes."""
    chosen, few = probes()[::9], blocks()[::7]
    monkeypatch.setattr(deep, "probes", lambda: chosen)
    monkeypatch.setattr(deep, "blocks", lambda: few)
    monkeypatch.setattr(deep, "_seconds", lambda nodes: 1e-4 + 1e-5 * nodes)
    monkeypatch.setattr(deep, "RUNNERS", {"onnxruntime": lambda threads: lambda proto: len(proto.graph.node)})
    monkeypatch.setattr(deep, "_session_runner", lambda threads: lambda proto: 5)


def test_differences_of_chains_are_single_operators(fast):
    found = deep.deep(HERE)["onnxruntime"]
    by_kind = {row.launch.kind: row.seconds for row in found.rows if row.launch.dtype == "float32"}
    assert by_kind["pointwise_conv"] == pytest.approx(1e-5) and by_kind["attention"] == pytest.approx(5e-5)
    assert all(row.seconds > 0 for row in found.blocks) and found.call == pytest.approx(1.5e-4)


def test_profile_keeps_operators(fast, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = deep.corrected(HERE, deep.deep(HERE))
    profile.save(made)
    path = profile.save_operators(made, {})
    back = profile.measured(Target("cpu", "cpu", 1))
    assert back.corrections == json.loads(json.dumps(made.corrections)) and back.cache_bandwidth == made.cache_bandwidth
    path.write_text('{"corrections": {"onnxruntime": {"kinds": 3}, "openvino": []}}')
    assert profile.measured(Target("cpu", "cpu", 1)).corrections == {}
    path.write_text("{")
    assert profile.measured(Target("cpu", "cpu", 1)).corrections == {}
