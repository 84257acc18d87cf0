"""Counts and pictures of programs."""

import pytest
import torch
from torch import nn

from tersor.capture.torch import capture_module
from tersor.facts import facts, picture

# torch.export copies its own tree specifications in a way that it deprecates itself.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


@pytest.fixture(scope="module")
def program():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    return capture_module(model, (torch.randn(3, 4),), ({0: torch.export.Dim("batch")},))


def marks(drawn):
    return {node["name"]: node["mark"] for node in drawn.nodes if node["mark"]}


def named(program, name):
    return next(node for node in program.nodes if node.name == name)


def test_counts(program):
    counted = facts(program)
    assert counted.operators == {"linear": 3, "relu": 2}
    assert counted.parameters == 4 * 8 + 8 + 8 * 8 + 8 + 8 * 2 + 2
    assert counted.parameter_bytes == 4 * counted.parameters
    assert counted.flops == 2 * 3 * (4 * 8 + 8 * 8 + 8 * 2)
    assert counted.elementwise == 2 * 3 * 8
    assert counted.inputs == [{"name": program.interface.input_names[0], "dtype": "float32", "shape": "[batch, 4]"}]
    assert counted.outputs[0]["shape"] == "[batch, 2]"


def test_shared_weights_count_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4, bias=False)
            self.b = nn.Linear(4, 4, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    counted = facts(capture_module(Tied().eval(), (torch.randn(2, 4),)))
    assert counted.operators == {"linear": 2} and counted.parameters == 16


def test_a_copy_has_no_marks(program):
    assert marks(picture(program, program.clone())) == {}


def test_removed_nodes_are_marked_before(program):
    after = program.clone()
    node = named(after, "relu_1")
    node.replace_all_uses_with(node.args[0])
    after.graph.erase_node(node)
    assert marks(picture(program, after, mark="removed")) == {"relu_1": "removed"}
    assert marks(picture(after, program)) == {}


def test_added_nodes_and_changed_options_and_weights_are_marked_after(program):
    after = program.clone()
    last = after.outputs[0]
    with after.graph.inserting_after(last):
        extra = after.graph.call_function(torch.ops.aten.tanh.default, (last,))
    extra.meta["val"] = last.meta["val"]
    after.output_node.args = ((extra,),)
    first = named(after, "linear")
    name = str(first.args[1].target)
    after.weights[name] = after.weights[name] * 2
    named(after, "relu").target = torch.ops.aten.sigmoid.default
    assert marks(picture(after, program)) == {"linear": "changed", "relu": "changed", extra.name: "added"}


def test_picture_holds_edges_shapes_and_weights_but_no_weight_nodes(program):
    drawn = picture(program)
    assert [node["operator"] for node in drawn.nodes] == ["input", *["linear", "relu"] * 2, "linear", "output"]
    assert len(drawn.edges) == 6
    assert drawn.nodes[1]["shape"] == "[batch, 8]" and "0.weight (32)" in drawn.nodes[1]["weights"]
    assert drawn.note == ""


def test_a_large_graph_is_drawn_in_part_with_the_marked_nodes(program):
    after = program.clone()
    named(after, "relu_1").target = torch.ops.aten.tanh.default
    drawn = picture(after, program, limit=3)
    assert [node["name"] for node in drawn.nodes] == [program.placeholders[0].name, "linear", "relu_1"]
    assert "relu_1" in marks(drawn)
    assert drawn.note == "4 of 7 nodes are left out of the drawing"
    known = {node["name"] for node in drawn.nodes}
    assert all({source, target} <= known for source, target in drawn.edges)


def test_structural_nodes_have_readable_names():
    class Split(nn.Module):
        def forward(self, x):
            a, b = x.split(2, -1)
            return a + b

    counted = facts(capture_module(Split().eval(), (torch.randn(3, 4),)))
    assert counted.operators["getitem"] == 2
