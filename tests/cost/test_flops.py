"""Counted operations against closed formulas and torch's own counter."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tersor.capture.torch import capture_module
from tersor.cost.einsum import einsum_flops
from tersor.cost.flops import flops, program_flops

# torch.export copies its own tree specifications in a way that it deprecates itself.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def products(function, *shapes):
    inputs = tuple(torch.randn(shape) for shape in shapes)
    return program_flops(capture_module(Call(function).eval(), inputs)).products


def counted_by_torch(function, *shapes):
    inputs = tuple(torch.randn(shape) for shape in shapes)
    with FlopCounterMode(display=False) as counter:
        function(*inputs)
    return counter.get_total_flops()


AGREEING = [
    (F.linear, (2, 7, 5), (3, 5), (3,)),
    (torch.mm, (4, 5), (5, 6)),
    (torch.bmm, (2, 4, 5), (2, 5, 6)),
    (torch.matmul, (3, 2, 4, 5), (5, 6)),
    (torch.addmm, (6,), (4, 5), (5, 6)),
    (torch.baddbmm, (2, 4, 6), (2, 4, 5), (2, 5, 6)),
    (F.conv1d, (2, 3, 20), (4, 3, 5)),
    (lambda x, w: F.conv2d(x, w, stride=2, padding=1, groups=2), (2, 4, 9, 9), (6, 2, 3, 3)),
    (lambda x, w: F.conv2d(x, w, padding=1, groups=8), (1, 8, 9, 9), (8, 1, 3, 3)),
    (F.conv3d, (1, 2, 5, 5, 5), (4, 2, 3, 3, 3)),
    (lambda x, w: F.conv_transpose2d(x, w, stride=2), (1, 4, 5, 5), (4, 3, 2, 2)),
    (lambda a, b: torch.einsum("bhid,bhjd->bhij", a, b), (2, 3, 4, 5), (2, 3, 6, 5)),
    (lambda a, b: torch.einsum("...ij,jk->...ik", a, b), (2, 4, 5), (5, 6)),
    (lambda a, b: torch.einsum("ij,jk", a, b), (4, 5), (5, 6)),
]


@pytest.mark.parametrize("case", AGREEING, ids=range(len(AGREEING)))
def test_same_as_torch_counter(case):
    assert products(*case) == counted_by_torch(*case) > 0


def test_grouped_transposed_convolution():
    def function(x, w):
        return F.conv_transpose2d(x, w, stride=2, groups=2)

    assert products(function, (1, 4, 5, 5), (4, 3, 2, 2)) == 2 * (4 * 5 * 5) * 3 * 2 * 2


@pytest.mark.parametrize("causal", [False, True])
def test_attention_counts_both_products_densely(causal):
    def function(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    count = products(function, (2, 4, 7, 8), (2, 4, 9, 8), (2, 4, 9, 6))
    assert count == 2 * 2 * 4 * 7 * 9 * (8 + 6)


def test_grouped_query_attention_counts_query_heads():
    def function(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    assert products(function, (1, 8, 7, 16), (1, 2, 7, 16), (1, 2, 7, 16)) == 2 * 8 * 7 * 7 * 32


def test_einsum_sums_lonely_labels_first():
    assert einsum_flops("ijx,jk->ik", [(2, 3, 100), (3, 5)]) == 2 * 2 * 3 * 5


def test_einsum_of_three_goes_left_to_right():
    shapes = [(2, 3), (3, 4), (4, 5)]
    assert einsum_flops("ab,bc,cd->ad", shapes) == 2 * (2 * 3 * 4 + 2 * 4 * 5)


def test_elementwise_is_apart_and_movement_is_free():
    def function(x):
        return F.relu(x.transpose(0, 1).reshape(-1)) + 1

    count = program_flops(capture_module(Call(function).eval(), (torch.randn(4, 5),)))
    assert (count.products, count.elementwise, count.unknown) == (0, 40, ())


def test_norms_softmax_and_reductions_count_their_elements():
    def function(x):
        return F.layer_norm(x, (8,)).softmax(-1).mean(-1)

    count = program_flops(capture_module(Call(function).eval(), (torch.randn(4, 8),)))
    assert count.elementwise == 3 * 32


def test_pooling_counts_its_window():
    count = program_flops(capture_module(Call(lambda x: F.max_pool2d(x, 3, 1)).eval(), (torch.randn(1, 2, 5, 5),)))
    assert count.elementwise == 2 * 3 * 3 * 9


def test_embedding_is_free():
    model = nn.Embedding(100, 16).eval()
    count = program_flops(capture_module(model, (torch.tensor([[1, 2, 3]]),)))
    assert (count.products, count.elementwise) == (0, 0)


def test_dynamic_sizes_count_at_the_example():
    batch = torch.export.Dim("batch")
    program = capture_module(nn.Linear(5, 3).eval(), (torch.randn(7, 5),), ({0: batch},))
    assert program_flops(program).products == 2 * 7 * 5 * 3


def test_unknown_function_is_not_counted_as_nothing():
    program = capture_module(nn.Linear(5, 3).eval(), (torch.randn(7, 5),))
    node = program.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)[0]
    node.target = torch.nn.functional.linear
    assert flops(node) is None
    assert program_flops(program).unknown == (node.name,)


def test_resnet_block_against_torch():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()
    example = torch.randn(2, 3, 16, 16)
    with FlopCounterMode(display=False) as counter:
        model(example)
    assert program_flops(capture_module(model, (example,))).products == counter.get_total_flops()
