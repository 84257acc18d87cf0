"""Launches, their traffic and the memory of a run against counts by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.capture.torch import capture_module
from tersor.cost.launches import launches
from tersor.cost.memory import peak_bytes


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 32)
        self.second = nn.Linear(32, 8)

    def forward(self, x):
        return self.second(F.relu(self.first(x)))


@pytest.fixture(scope="module")
def graph():
    return capture_module(Layers().eval(), (torch.randn(4, 16),)).graph


def kinds(graph, *args):
    return [one.kind for one in launches(graph, *args)]


def test_fusion_rules(graph):
    assert kinds(graph) == ["linear", "elementwise", "linear"]
    assert kinds(graph, "inductor") == ["linear", "elementwise", "linear"]
    assert kinds(graph, "openvino") == ["linear", "linear"]


def test_sizes_and_traffic(graph):
    first, relu, second = launches(graph)
    assert (first.m, first.n, first.k, first.flops) == (4, 32, 16, 2 * 4 * 32 * 16)
    assert first.moved == 4 * (4 * 16 + 4 * 32) and first.weights == 4 * (32 * 16 + 32)
    assert relu.moved == 4 * 2 * 4 * 32 and relu.k == 0
    assert second.bytes == 4 * (4 * 32 + 4 * 8 + 8 * 32 + 8)


def test_fused_traffic_skips_the_intermediate(graph):
    fused = launches(graph, "openvino")[0]
    assert fused.moved == 4 * (4 * 16 + 4 * 32) and len(fused.nodes) == 2


def test_precision_changes_bytes_and_dtype(graph):
    whole, half, eighth = (launches(graph, "openvino", precision)[0] for precision in ("", "float16", "int8"))
    assert (half.dtype, eighth.dtype) == ("float16", "int8")
    assert half.bytes == whole.bytes / 2 > eighth.bytes


def test_batch_scales_activations_alone(graph):
    one = launches(graph)[0]
    more = one.scaled(8)
    assert (more.flops, more.moved, more.weights, more.m) == (8 * one.flops, 8 * one.moved, one.weights, 8 * one.m)


def test_convolution_as_product():
    program = capture_module(nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=2).eval(), (torch.randn(2, 8, 9, 9),))
    (one,) = launches(program.graph)
    assert (one.kind, one.groups, one.m, one.n, one.k, one.window, one.stride, one.images) == (
        "grouped_conv", 2, 2 * 25, 8, 36, 9, 2, 2,
    )  # fmt: skip
    assert one.flops == 2 * one.groups * one.m * one.n * one.k


def test_grouped_query_attention_is_one_launch():
    class Attention(nn.Module):
        def forward(self, q, k, v):
            return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    shapes = ((2, 4, 7, 8), (2, 2, 9, 8), (2, 2, 9, 8))
    (one,) = launches(capture_module(Attention().eval(), tuple(torch.randn(shape) for shape in shapes)).graph)
    assert (one.kind, one.groups, one.m, one.n, one.k) == ("attention", 8, 7, 9, 8)
    assert one.flops == 2 * 8 * 7 * 9 * (8 + 8)


def test_autocast_keeps_norms_in_float32():
    model = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 16)).eval()
    found = launches(capture_module(model, (torch.randn(4, 16),)).graph, "eager", "amp")
    by_kind = {one.kind: one.dtype for one in found}
    assert by_kind["linear"] == "float16" and by_kind["norm"] == "float32" and by_kind["elementwise"] == "float16"


def test_peak_memory(graph):
    weights, activations = peak_bytes(graph)
    assert weights == 4 * (16 * 32 + 32 + 32 * 8 + 8)
    assert activations == 4 * (4 * 32 + 4 * 32)
    assert peak_bytes(graph, "float16", 2.0)[1] == activations
