"""Wrong rewrites, each a pass that a careless author could have written; the verifier must catch every one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx, nn

from tersor.context import Context
from tersor.program import Program

aten = torch.ops.aten
Edit = Callable[[Program, fx.Node], None]


class Victim(nn.Module):
    """One of each kind of operator that the faults need; dynamic batch and sequence length."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm1d(8)
        mean, variance = self.bn.running_mean, self.bn.running_var
        assert isinstance(mean, torch.Tensor) and isinstance(variance, torch.Tensor)
        mean.normal_()
        variance.uniform_(0.5, 2)
        self.first = nn.LayerNorm(8)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)
        self.pool = nn.AvgPool1d(3, stride=1, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = torch.relu(self.bn(self.conv(self.first(x).transpose(1, 2))))
        h = self.pool(h).transpose(1, 2)
        q, k, v = self.qkv(self.norm(h)).chunk(3, dim=-1)
        mixed = torch.softmax((q @ k.transpose(1, 2)) * 8**-0.5, dim=-1) @ v
        h = h + nn.functional.gelu(self.out(mixed))
        return h, h.mean(1), h.mean(1).argmax(-1)


@dataclass(frozen=True)
class Fault:
    """A pass that edits the first node of one operator wrongly."""

    exact: ClassVar[bool] = True
    name: str
    target: str
    edit: Edit

    def __call__(self, program: Program, context: Context) -> None:
        for node in list(program.graph.nodes):
            if str(node.target) == self.target and context.take(node, self.name):
                self.edit(program, node)
                return


def retarget(target: Callable[..., object]) -> Edit:
    def edit(program: Program, node: fx.Node) -> None:
        node.target = target

    return edit


def argument(position: int, value: object) -> Edit:
    def edit(program: Program, node: fx.Node) -> None:
        args = list(node.args) + [None] * (position + 1 - len(node.args))
        args[position] = value  # type: ignore[call-overload]
        node.args = tuple(args)

    return edit


def after(function: Callable[[fx.Graph, fx.Node], fx.Node]) -> Edit:
    """Everything that reads the node reads ``function`` of it."""

    def edit(program: Program, node: fx.Node) -> None:
        users = list(node.users)
        with program.graph.inserting_after(node):
            made = function(program.graph, node)
        for user in users:
            user.replace_input_with(node, made)

    return edit


def weight(position: int, change: Callable[[torch.Tensor], torch.Tensor]) -> Edit:
    def edit(program: Program, node: fx.Node) -> None:
        old = node.args[position]
        value = program.weight(old)
        assert value is not None and isinstance(old, fx.Node)
        with program.graph.inserting_before(node):
            made = program.graph.get_attr(program.add_weight("wrong", change(value)))
        node.replace_input_with(old, made)

    return edit


def call(graph: fx.Graph, target: Callable[..., object], *args: object) -> fx.Node:
    """A call appended after the last insertion point, one after the other."""
    made = graph.call_function(target, args)  # type: ignore[arg-type]
    graph.inserting_after(made).__enter__()
    return made


def bypass(program: Program, node: fx.Node) -> None:
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]


def swap_outputs(program: Program, node: fx.Node) -> None:
    first, *others = program.outputs
    second = call_after(program, first, aten.mul.Tensor, first, -1.0)
    program.output_node.args = ((second, *others),)


def call_after(program: Program, node: fx.Node, target: Callable[..., object], *args: object) -> fx.Node:
    with program.graph.inserting_before(program.output_node):
        return program.graph.call_function(target, args)  # type: ignore[arg-type]


def drop_output(program: Program, node: fx.Node) -> None:
    program.output_node.args = (tuple(program.outputs[:-1]),)


def permute_outputs(program: Program, node: fx.Node) -> None:
    program.output_node.args = (tuple(reversed(program.outputs)),)


def flipped_axes(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """A transposition that no shape reveals: channels reversed."""
    return graph.call_function(aten.flip.default, (node, [1]))


def through_bfloat16(graph: fx.Graph, node: fx.Node) -> fx.Node:
    low = graph.call_function(aten.to.dtype, (node, torch.bfloat16))
    with graph.inserting_after(low):
        return graph.call_function(aten.to.dtype, (low, torch.float32))


def half_output(program: Program, node: fx.Node) -> None:
    first, *others = program.outputs
    made = call_after(program, first, aten.to.dtype, first, torch.float16)
    program.output_node.args = ((made, *others),)


def frozen_example(program: Program, node: fx.Node) -> None:
    """A value that depends on the input, folded as if it were constant: right for the example alone."""
    outputs = program.outputs
    value = program.run(program.inputs)[1]
    with program.graph.inserting_before(program.output_node):
        made = program.graph.get_attr(program.add_weight("folded", value))
        like = program.graph.call_function(aten.mul.Tensor, (outputs[1], 0.0))
        total = program.graph.call_function(aten.add.Tensor, (like, made))
    program.output_node.args = ((outputs[0], total, outputs[2]),)


def static_batch(program: Program, node: fx.Node) -> None:
    first, *others = program.outputs
    made = call_after(program, first, aten.view.default, first, list(program.run(program.inputs)[0].shape))
    program.output_node.args = ((made, *others),)


def wrong_view(program: Program, node: fx.Node) -> None:
    first, *others = program.outputs
    made = call_after(program, first, aten.view.default, first, [7, 11, 13])
    program.output_node.args = ((made, *others),)


def only_longer(program: Program, node: fx.Node) -> None:
    """Positions past the example's length are zeroed: shapes agree, the example agrees, a longer input does not."""
    first, *others = program.outputs
    length = program.inputs[0].shape[1]
    with program.graph.inserting_before(program.output_node):
        call_ = program.graph.call_function
        size = call_(aten.sym_size.int, (first, 1))
        ramp = call_(aten.arange.default, (size,))
        kept = call_(aten.to.dtype, (call_(aten.lt.Scalar, (ramp, length)), torch.float32))
        made = call_(aten.mul.Tensor, (first, call_(aten.unsqueeze.default, (kept, 1))))
    program.output_node.args = ((made, *others),)


def mean_of_example(program: Program, node: fx.Node) -> None:
    """A mean divided by the example's length."""
    with program.graph.inserting_before(node):
        total = program.graph.call_function(aten.sum.dim_IntList, (node.args[0], node.args[1]))
        made = program.graph.call_function(aten.div.Tensor, (total, float(program.inputs[0].shape[1])))
    node.replace_all_uses_with(made)


def off_by_one(program: Program, node: fx.Node) -> None:
    *others, last = program.outputs
    program.output_node.args = ((*others, call_after(program, last, aten.add.Tensor, last, 1)),)


def dropped_input(program: Program, node: fx.Node) -> None:
    made = call_after(program, node, aten.zeros.default, [3, 5, 8])
    program.output_node.args = ((made, *program.outputs[1:]),)
    for old in list(reversed(program.graph.nodes)):
        if not old.users and old.op != "output":
            program.graph.erase_node(old)


def random_noise(graph: fx.Graph, node: fx.Node) -> fx.Node:
    return graph.call_function(aten.dropout.default, (node, 0.5, True))


FAULTS = [
    Fault("sign of the residual", "aten.add.Tensor", retarget(aten.sub.Tensor)),
    Fault("softmax over the wrong axis", "aten.softmax.int", argument(1, 1)),
    Fault("layer norm with another epsilon", "aten.layer_norm.default", argument(4, 1e-3)),
    Fault("layer norm with the epsilon of another framework", "aten.layer_norm.default", argument(4, 1e-6)),
    Fault("linear without its bias", "aten.linear.default", argument(2, None)),
    Fault("transposed weight", "aten.linear.default", weight(1, lambda w: w.flip(0).contiguous())),
    Fault("convolution kernel mirrored", "aten.conv1d.default", weight(1, lambda w: w.flip(2).contiguous())),
    Fault("convolution dilated with the same shape", "aten.conv1d.default", lambda p, n: dilate(n)),
    Fault(
        "batch norm variance not rooted",
        "aten._native_batch_norm_legit_no_training.default",
        weight(4, lambda v: v * v),
    ),
    Fault("relu lost", "aten.relu.default", bypass),
    Fault("gelu by its tanh form", "aten.gelu.default", lambda p, n: n.update_kwarg("approximate", "tanh")),
    Fault("padding not counted by the pool", "aten.avg_pool1d.default", argument(5, False)),
    Fault("attention scale wrong", "aten.mul.Tensor", argument(1, 24**-0.5)),
    Fault("channels reversed", "aten.gelu.default", after(flipped_axes)),
    Fault("through bfloat16 and back", "aten.relu.default", after(through_bfloat16)),
    Fault("output in half precision", "aten.gelu.default", half_output),
    Fault("first output negated", "aten.gelu.default", swap_outputs),
    Fault("outputs in another order", "aten.gelu.default", permute_outputs),
    Fault("an output lost", "aten.gelu.default", drop_output),
    Fault("an input folded away", "aten.gelu.default", frozen_example),
    Fault("batch made static", "aten.gelu.default", static_batch),
    Fault("stale shape", "aten.gelu.default", wrong_view),
    Fault("wrong beyond the example's length", "aten.gelu.default", only_longer),
    Fault("mean by the example's length", "aten.mean.dim", mean_of_example),
    Fault("integer output off by one", "aten.gelu.default", off_by_one),
    Fault("an input lost", "aten.gelu.default", dropped_input),
    Fault("noise", "aten.gelu.default", after(random_noise)),
    Fault("residual lost", "aten.add.Tensor", bypass),
]


def dilate(node: fx.Node) -> None:
    args = list(node.args) + [None] * (7 - len(node.args))
    args[3], args[4], args[5], args[6] = [1], [2], [2], 1
    node.args = tuple(args)
