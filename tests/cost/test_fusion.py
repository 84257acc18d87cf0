"""What ONNX Runtime and OpenVINO run as one kernel, against the graph that ONNX Runtime itself makes."""

import collections

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.capture.torch import capture_module
from tersor.cost.launches import launches
from tersor.export import save_onnx


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.a, self.b = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 1)
        self.deep = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.b(F.relu6(self.a(x))) + x)
        x = self.deep(F.silu(x))
        return self.head(F.max_pool2d(x, 2).mean((2, 3)))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.gate = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1)

    def forward(self, x):
        x = self.a(x)
        return self.b(x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True))))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.position = nn.Parameter(torch.randn(1, 6, 32))

    def forward(self, x, mask=None):
        q, k, v = (
            self.qkv(x + self.position.transpose(0, 1).transpose(0, 1)).reshape(2, 6, 3, 4, 8).permute(2, 0, 3, 1, 4)
        )
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(2, 6, 32))


def run_by_onnxruntime(program, folder):
    """Operators in the graph that ONNX Runtime has made of the exported file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    path = str(save_onnx(program, folder / "model.onnx"))
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return collections.Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def kinds(program, backend):
    return collections.Counter(one.kind for one in launches(program.graph, backend))


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_convolutions_as_onnxruntime_fuses_them(tmp_path):
    program = capture_module(Residual().eval(), (torch.randn(1, 3, 16, 16),))
    ours, theirs = kinds(program, "onnxruntime"), run_by_onnxruntime(program, tmp_path)
    assert ours["conv"] + ours["pointwise_conv"] + ours["depthwise"] == theirs["Conv"] == 4
    assert ours["elementwise"] == theirs["QuickGelu"] + theirs["Mul"] == 1  # SiLU, in one operator or two
    assert ours["linear"] == theirs["Gemm"] == 1 and ours["batch_norm"] == theirs["BatchNormalization"] == 0


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_blocks_of_channels_are_undone_for_what_cannot_use_them(tmp_path):
    program = capture_module(Gated().eval(), (torch.randn(1, 3, 16, 16),))
    ours, theirs = kinds(program, "onnxruntime"), run_by_onnxruntime(program, tmp_path)
    # Theirs puts the result back, too, which ours leaves out.
    assert ours["convert"] == theirs["ReorderInput"] + theirs["ReorderOutput"] - 1 > 0


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_views_cost_where_there_are_no_strides():
    program = capture_module(Attention().eval(), (torch.randn(2, 6, 32),))
    eager, runtime = kinds(program, "eager"), kinds(program, "onnxruntime")
    assert eager["permute"] == 0 and runtime["permute"] == 2 and runtime["move"] >= 1
    assert eager["attention"] == runtime["attention"] == 1


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_masks_are_passes_over_the_scores():
    shape = (torch.randn(2, 6, 32), torch.ones(6, 6, dtype=torch.bool))
    masked = kinds(capture_module(Attention().eval(), shape), "onnxruntime")
    plain = kinds(capture_module(Attention().eval(), shape[:1]), "onnxruntime")
    assert masked["elementwise"] - plain["elementwise"] == 3


def test_openvino_runs_activations_with_their_layer():
    program = capture_module(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)).eval(), (torch.randn(2, 8),))
    assert kinds(program, "openvino") == {"linear": 2}
    assert kinds(program, "onnxruntime") == {"linear": 2, "elementwise": 1}
    assert sum(one.functions for one in launches(program.graph, "openvino")) == 16
