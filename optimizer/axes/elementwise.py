"""Flow through operators that treat every element alike, with broadcasting."""

from __future__ import annotations

import torch
from torch import fx

from tersor.axes.flow import Dims, Flow, Value, fresh, rule, shape
from tersor.axes.terms import Term, same, size
from tersor.rewrite_values import fake


def broadcast(flow: Flow, operands: list[Dims], sizes: tuple[object, ...]) -> Dims:
    """Align dimensions from the right; those of size 1 stretch and are left alone."""
    made: list[Term] = []
    for back in range(1, len(sizes) + 1):
        wanted = sizes[-back]
        met = [dims[-back] for dims in operands if len(dims) >= back]
        full = [term for term in met if same(size(term), wanted)]
        for term in full[1:]:
            flow.tie(full[0], term)
        made.append(full[0] if full else fresh(wanted))
    return tuple(reversed(made))


def tensors(node: fx.Node, flow: Flow) -> list[Dims]:
    """Dimensions of the tensor arguments of a node."""
    return [value for source in node.all_input_nodes if isinstance(value := flow.values.get(source.name), tuple)]


def elementwise(node: fx.Node, flow: Flow) -> Value:
    """Broadcast all tensor arguments together."""
    return broadcast(flow, tensors(node, flow), shape(fake(node)))


def is_elementwise(node: fx.Node) -> bool:
    """Whether ATen itself calls the operator pointwise."""
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags


@rule(
    "clone", "contiguous", "detach", "detach_", "alias", "to", "_to_copy", "type_as", "copy", "lift_fresh_copy",
    "dropout", "feature_dropout", "alpha_dropout", "masked_fill", "where", "clamp", "clamp_min", "clamp_max", "pow",
    "float_power", "square", "lerp", "addcmul", "addcdiv", "full_like", "zeros_like", "ones_like", "empty_like",
    "gelu", "silu", "mish", "elu", "celu", "selu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "leaky_relu",
    "softplus", "log_sigmoid", "softshrink", "threshold", "rrelu", "rsub", "nan_to_num", "isnan", "isinf",
    "__and__", "__or__", "__xor__", "bitwise_and", "bitwise_or", "bitwise_not", "floor_divide", "fill", "zero", "fmod",
    "remainder", "maximum", "minimum", "logical_not", "logical_and", "logical_or", "logical_xor", "special_erf",
    "negative", "multiply", "true_divide",
    "fake_quantize_per_tensor_affine", "quantized_decomposed::quantize_per_tensor",
    "quantized_decomposed::dequantize_per_tensor",
)  # fmt: skip
def pointwise(node: fx.Node, flow: Flow) -> Value:
    """Operators that ATen does not tag, or whose tags differ between versions."""
    return elementwise(node, flow)


@rule("prelu", "_prelu_kernel")
def prelu(node: fx.Node, flow: Flow) -> Value:
    """Pointwise, with one slope or one per channel."""
    source, slope = (flow.dims(item) for item in node.args[:2])
    if len(slope) > 1:
        return elementwise(node, flow)
    if size(slope[0]) != 1:
        flow.tie(source[1], slope[0])
    return source


@rule("expand", "expand_as", "broadcast_to")
def expand(node: fx.Node, flow: Flow) -> Value:
    """Dimensions of size 1 become new axes; others pass."""
    source = flow.dims(node.args[0])
    sizes = shape(fake(node))
    lead = len(sizes) - len(source)
    made = tuple(
        source[i - lead] if i >= lead and same(size(source[i - lead]), sizes[i]) else fresh(sizes[i])
        for i in range(len(sizes))
    )
    if isinstance(node.args[1], fx.Node):
        for term, other in zip(made, flow.dims(node.args[1]), strict=True):
            flow.tie(term, other)
    else:
        flow.sizes(node, "size", made)
    return made


@rule("full", "zeros", "ones", "empty")
def filled(node: fx.Node, flow: Flow) -> Value:
    """A constant fill has the size that its consumers need."""
    made = tuple(fresh(item) for item in shape(fake(node)))
    flow.sizes(node, "size", made)
    return made


@rule("new_zeros", "new_ones", "new_full", "new_empty")
def filled_like(node: fx.Node, flow: Flow) -> Value:
    """As `filled`; the tensor argument gives dtype and device only."""
    return filled(node, flow)
