"""Files: whole or not at all, weights beside the graph where they are large."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tersor.errors import OutputError
from tersor.export import save_onnx, to_onnx_model, verify_onnx, write_model
from tersor.export import write as writing
from tests.export.models import captured


@pytest.fixture(scope="module")
def program():
    return captured(nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 64)), 3, 64)


@pytest.fixture(scope="module")
def model(program):
    return to_onnx_model(program)


def test_weights_inside(program, tmp_path):
    path = save_onnx(program, tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert all(difference.absolute < 1e-5 for difference in verify_onnx(program, path))
    # The stream is plain protobuf: parsing and writing it again gives the same message.
    proto = onnx.load(path)
    assert onnx.load_from_string(proto.SerializeToString()) == proto
    assert len(proto.graph.initializer) == 4


def test_weights_beside(program, tmp_path):
    path = save_onnx(program, tmp_path / "model.onnx", external_data=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert path.stat().st_size < 5000
    assert all(difference.absolute < 1e-5 for difference in verify_onnx(program, path))


def test_large_models_get_a_second_file_unasked(model, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "PROTOBUF_LIMIT", 10_000)
    assert [path.name for path in write_model(model, tmp_path / "model.onnx")] == ["model.onnx", "model.onnx.data"]
    monkeypatch.undo()
    assert len(model.graph.initializers) == 4


def test_an_earlier_file_survives_a_failure(model, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_text("earlier")

    def interrupted(made, file):
        file.write(b"half a model")
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "write_stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_model(model, path)
    assert path.read_text() == "earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_bad_destinations(program, tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        save_onnx(program, tmp_path)
    with pytest.raises(OutputError, match="does not exist"):
        save_onnx(program, tmp_path / "missing" / "model.onnx")


def test_a_full_disk_is_an_output_error(model, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_stream", full)
    with pytest.raises(OutputError, match="No space left"):
        write_model(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_low_precision_weights(tmp_path):
    program = captured(nn.Linear(64, 64).to(torch.bfloat16), 3, 64, dtype=torch.bfloat16)
    path = save_onnx(program, tmp_path / "model.onnx", external_data=True)
    stored = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert stored == {onnx.TensorProto.BFLOAT16}


@pytest.mark.slow
def test_more_than_two_gigabytes(tmp_path):
    table = nn.Embedding(2**15, 2**14 + 512)
    program = captured(lambda x: table(x.abs()), 3, 2, dtype=torch.int64)
    path = save_onnx(program, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").stat().st_size > 2**31
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert all(difference.absolute < 1e-4 for difference in verify_onnx(program, path))
