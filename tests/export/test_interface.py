"""Names, axes and metadata of exported models."""

from dataclasses import replace
from typing import Any

import onnx_ir as ir
import pytest
import torch
from torch import nn

from tersor.capture.torch import capture_module
from tersor.errors import ExportError
from tersor.export import to_onnx_model, verify_onnx
from tests.export.models import BATCH, Apply, captured, exported, operators

WIDTH = torch.export.Dim("width", min=2)


class Outputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(3.0))

    def forward(self, image: torch.Tensor, unused: torch.Tensor) -> dict[str, Any]:
        doubled = image * 2
        return {"same": image, "once": doubled, "twice": doubled, "table": self.table, "batch": doubled.flatten(1)}


def shapes(values: Any) -> dict[str, list[Any]]:
    return {value.name: [str(dim) if not isinstance(dim, int) else dim for dim in value.shape] for value in values}


def test_names_order_and_outputs_that_are_inputs_constants_or_returned_twice():
    inputs = (torch.randn(2, 3, 5), torch.randn(2, 4, dtype=torch.float64))
    program = capture_module(Outputs().eval(), inputs, ({0: BATCH, 2: WIDTH}, {0: BATCH}))
    names = ("same", "once", "twice", "table", "the batch")
    program.interface = replace(program.interface, input_names=("in put", "unused:0"), output_names=names)
    model = exported(program)
    assert shapes(model.graph.inputs) == {"in put": ["batch", 3, "width"], "unused:0": ["batch", 4]}
    assert [value.name for value in model.graph.outputs] == list(names)
    assert shapes(model.graph.outputs)["once"] == ["batch", 3, "width"]
    assert model.graph.inputs[1].dtype == ir.DataType.DOUBLE
    assert operators(model) == {"Identity": 3, "Mul": 1, "Reshape": 1}


def test_an_inner_value_gives_way_to_an_interface_name():
    program = captured(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), 2, 4)
    inner = next(node.name for node in program.nodes if "linear" in node.name)
    program.interface = replace(program.interface, output_names=(inner,))
    model = exported(program)
    assert model.graph.outputs[0].name == inner
    names = [value.name for node in model.graph for value in node.outputs]
    assert len(set(names)) == len(names)


def test_names_of_the_original_file_win():
    program = captured(torch.relu, 2, 4)
    name = program.interface.output_names[0]
    program.interface = replace(program.interface, axis_names={(name, 0): "rows of it"})
    assert shapes(to_onnx_model(program).graph.outputs) == {name: ["rows of it", 4]}


def test_multiples_of_a_dimension():
    half = torch.export.Dim("half", min=1, max=40)
    program = capture_module(
        Apply(nn.Conv2d(3, 4, 3, 2, 1)).eval(), (torch.randn(2, 3, 8, 6),), ({0: BATCH, 2: 2 * half},)
    )
    model = exported(program)
    assert shapes(model.graph.inputs)["x"] == ["batch", 3, "2*half", 6]


def test_metadata_is_kept():
    program = captured(torch.relu, 2, 4)
    metadata = {"metadata_props": {"labels": "a\nb"}, "doc_string": "what it is", "domain": "org.x", "model_version": 7}
    program.interface = replace(program.interface, metadata=metadata)
    model = to_onnx_model(program)
    assert dict(model.metadata_props) == {"labels": "a\nb"}
    assert (model.doc_string, model.domain, model.model_version) == ("what it is", "org.x", 7)


def test_no_trace_of_the_machine_is_left():
    text = str(ir.to_proto(to_onnx_model(captured(nn.Linear(4, 4), 2, 4))))
    assert "stack_trace" not in text
    assert ".py" not in text


def test_an_axis_that_becomes_static_is_an_error():
    program = captured(lambda x: x.reshape(x.shape[0], -1), 6, 4)
    view = next(node for node in program.nodes if "reshape" in str(node.target))
    view.args = (view.args[0], [6, 4])
    program.changed()
    with pytest.raises(ExportError, match=r"axis 0 of output 'reshape' is batch but became the constant 6.*declare"):
        to_onnx_model(program)


def test_sizes_of_one_at_run_time():
    program = captured(lambda x: x + x.reshape(-1, 4)[: x.shape[0]], 3, 4)
    differences = verify_onnx(program, to_onnx_model(program), [dict.fromkeys(program.dimensions, 1)])
    assert [difference.absolute for difference in differences] == [0.0]
