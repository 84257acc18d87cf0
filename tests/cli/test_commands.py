"""The commands that look at models, and those that list what there is."""

import json

import pytest


def test_inspect(tersor):
    code, out, _ = tersor("inspect", "zoo:digits-vit", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["operators"]["linear"] == 17
    assert found["parameters"] * 4 == found["parameter_bytes"]
    assert found["flops"] > 0 and found["uncounted"] == 0
    assert found["inputs"][0]["shape"].startswith("[batch, ")
    assert found["dimensions"][0]["name"] == "batch"


def test_inspect_as_text(tersor, tiny):
    code, out, _ = tersor("inspect", tiny)
    assert code == 0
    assert "[batch, 4]" in out and "relu" in out and "parameters" in out


def test_inspect_takes_example_sizes(tersor, tiny):
    counts = [json.loads(tersor("inspect", tiny, "--json", "--dim", f"batch={n}")[1])["elementwise"] for n in (3, 6)]
    assert counts[1] == 2 * counts[0] > 0


def test_inspect_names_opaque_nodes_with_their_reason(tersor, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 4, 4]) for name in ("x", "y")]
    nodes = helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Inverse", ["h"], ["y"], domain="com.microsoft")
    graph = helper.make_graph(list(nodes), "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "contrib.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    found = json.loads(tersor("inspect", path, "--json")[1])
    assert [entry["operators"] for entry in found["opaque"]] == ["Inverse"]
    assert found["opaque"][0]["reason"]
    assert found["uncounted"] == 1


def test_diff_of_the_same_model(tersor, tiny, model_file):
    code, out, _ = tersor("diff", tiny, model_file("same.onnx"), "--json")
    found = json.loads(out)
    assert code == 0
    assert found["same"] and found["interface"] == [] and found["operators"] == {}
    assert len(found["numbers"]) >= 3


def test_diff_finds_other_numbers(tersor, tiny, model_file):
    code, out, _ = tersor("diff", tiny, model_file("other.onnx", offset=1.5))
    assert code == 7
    assert "differs" in out


def test_diff_finds_other_operators_and_outputs(tersor, tiny, model_file):
    code, out, _ = tersor("diff", tiny, model_file("other.onnx", operator="Mul", outputs=("y", "z")), "--json")
    found = json.loads(out)
    assert code == 7
    assert found["operators"]["mul"] == [0, 1] and found["operators"]["relu"] == [1, 2]
    assert "A has 1 outputs, B has 2" in found["interface"]
    assert found["problem"]


def test_bench(tersor, tiny, model_file):
    other = model_file("other.onnx")
    flags = ("--backend", "onnxruntime", "--backend", "eager", "--seconds", "0.1", "--json")
    code, out, err = tersor("bench", tiny, other, *flags)
    assert code == 0, err
    found = json.loads(out)
    assert [row["name"] for row in found["timings"]] == [
        f"{model} on {backend}" for model in (tiny, other) for backend in ("onnxruntime", "eager")
    ]
    for row in found["timings"]:
        assert row["low_ms"] <= row["median_ms"] <= row["high_ms"] and row["runs"] >= 5
    assert found["timings"][0]["ratio"] == 1


def test_bench_as_text(tersor, tiny):
    code, out, _ = tersor("bench", tiny, "--seconds", "0.1", "--quiet")
    assert code == 0 and "median" in out and "1.00x" in out


def test_bench_refuses_models_with_other_inputs(tersor, tiny):
    code, _, err = tersor("bench", tiny, "zoo:digits-cnn", "--seconds", "0.1", "--quiet")
    assert code == 5 and err.count("\n") == 1


def test_bisect_of_a_right_pipeline(tersor, tiny):
    code, out, _ = tersor("bisect", tiny, "--passes", "canonicalize", "--json")
    assert code == 0 and json.loads(out)["culprit"] is None


def test_bisect_names_pass_and_site(tersor, tiny, monkeypatch):
    from tersor import bisect as module
    from tersor.bisect import Culprit
    from tersor.context import Site

    found = Culprit("wrong-pass", Site("relu", "swapped", "layer1"), "output 'y' differs", 3)
    monkeypatch.setattr(module, "bisect", lambda program, passes, budget: found)
    code, out, _ = tersor("bisect", tiny, "--passes", "canonicalize")
    assert code == 7
    assert "wrong-pass" in out and "relu, from layer1: swapped" in out and "output 'y' differs" in out


def test_passes(tersor):
    from tersor.spec import pass_names

    code, out, _ = tersor("passes", "--json")
    found = json.loads(out)
    assert code == 0
    assert [entry["name"] for entry in found] == pass_names()
    assert all(entry["description"] and entry["exact"] in (True, False) for entry in found)
    assert tersor("passes", "canonicalize")[1].startswith("canonicalize  exact")


def test_options_of_a_pass_with_defaults_and_docs(monkeypatch):
    from dataclasses import dataclass
    from typing import ClassVar

    from tersor import spec
    from tersor.cli.passes import describe

    @dataclass(frozen=True)
    class Prune:
        """Remove channels.

        Attributes:
            ratio: share that is removed.
        """

        exact: ClassVar[bool] = False
        ratio: float = 0.5

    monkeypatch.setattr(spec, "pass_class", lambda name: Prune)
    entry = describe("prune")
    assert entry["exact"] is False
    assert entry["options"] == [
        {"name": "ratio", "type": "float", "default": 0.5, "description": "share that is removed."}
    ]


def test_backends(tersor):
    code, out, _ = tersor("backends", "--json")
    found = {entry["name"]: entry for entry in json.loads(out)}
    assert code == 0
    assert found["onnxruntime"]["usable"] and found["eager"]["reason"] == ""
    assert "onnxruntime" in tersor("backends")[1]


def test_targets(tersor):
    code, out, _ = tersor("targets", "--json")
    assert code == 0 and json.loads(out)["targets"][0]["name"] == "cpu"
    assert "this machine" in tersor("targets")[1]


@pytest.mark.parametrize("command", ["inspect", "diff", "bench", "optimize", "bisect", "passes", "backends", "targets"])
def test_every_command_has_help(tersor, command):
    code, out, _ = tersor(command, "--help")
    assert code == 0 and "Usage: tersor " + command in out
