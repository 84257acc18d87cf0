"""A command line in this process, and small ONNX files to feed it."""

import onnx
import pytest
from onnx import TensorProto, helper

from tersor.cli import main


@pytest.fixture
def tersor(capsys):
    """Runs the command; returns exit code, standard output and standard error."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def model_file(tmp_path):
    """Writes ``relu(x (+) offset)`` on ``[batch, 4]``."""

    def write(name, *, offset=1.0, operator="Add", outputs=("y",)):
        path = tmp_path / name
        shape: list[str | int] = ["batch", 4]
        nodes = [helper.make_node(operator, ["x", "c"], ["h"])]
        nodes += [helper.make_node("Relu", ["h"], [y]) for y in outputs]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in outputs],
            [helper.make_tensor("c", TensorProto.FLOAT, [4], [offset] * 4)],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
        return path

    return write


@pytest.fixture
def tiny(model_file):
    return model_file("tiny.onnx")
