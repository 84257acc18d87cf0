"""Flow through operators that treat every element alike, with broadcasting."""

from __future__ import annotations

import torch
from torch import fx

from tersor.axes.flow import Dims, Flow, Value, fresh, rule, shape
from tersor.axes.terms import Term, same, size, unify
from tersor.rewrite_values import fake


def broadcast(flow: Flow, operands: list[Dims], sizes: tuple[object, ...]) -> Dims:
    """Align dimensions from the right; those of size 1 stretch and are left alone."""
    made: list[Term] = []
    for back in range(1, len(sizes) + 1):
        wanted = sizes[-back]
        met = [dims[-back] for dims in operands if len(dims) >= back]
        full = [term for term in met if same(size(term), wanted)]  # type: ignore[arg-type]
        for term in full[1:]:
            unify(full[0], term)
        made.append(full[0] if full else fresh(wanted))  # type: ignore[arg-type]
    return tuple(reversed(made))


def tensors(node: fx.Node, flow: Flow) -> list[Dims]:
    """Dimensions of the tensor arguments of a node."""
    return [
        value for source in node.all_input_nodes if isinstance(value := flow.values.get(source.name), tuple)
    ]


def elementwise(node: fx.Node, flow: Flow) -> Value:
    """Broadcast all tensor arguments together."""
    return broadcast(flow, tensors(node, flow), shape(fake(node)))


def is_elementwise(node: fx.Node) -> bool:
    """Whether ATen itself calls the operator pointwise."""
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags


@rule(
    "clone", "contiguous", "detach", "alias", "to", "_to_copy", "type_as", "dropout", "feature_dropout", "lift_fresh_copy",
    "detach_", "masked_fill", "where", "clamp", "pow", "lerp", "addcmul", "addcdiv", "full_like", "zeros_like", "ones_like",
    "prelu", "gelu", "hardtanh", "leaky_relu", "celu", "selu", "relu6", "hardswish", "hardsigmoid", "softplus", "mish",
    "silu", "elu", "log_sigmoid", "softshrink", "rrelu", "rsub", "nan_to_num", "copy", "logical_not", "empty_like",
    "fake_quantize_per_tensor_affine", "float_power", "threshold", "square", "clamp_min", "clamp_max", "true_divide",
    "quantized_decomposed::quantize_per_tensor", "quantized_decomposed::dequantize_per_tensor", "alpha_dropout",
    "logical_and", "logical_or", "logical_xor", "isnan", "isinf", "special_erf", "negative", "multiply",
)  # fmt: skip
def pointwise(node: fx.Node, flow: Flow) -> Value:
    """Operators that ATen does not tag, or whose tags differ between versions."""
    if len(node.all_input_nodes) == 2 and node.target in (torch.ops.aten.prelu.default,):
        return _prelu(node, flow)
    return elementwise(node, flow)


def _prelu(node: fx.Node, flow: Flow) -> Value:
    source, slope = (flow.dims(item) for item in node.args[:2])
    if size(slope[0]) != 1:
        unify(source[1], slope[0])
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
    if not isinstance(node.args[1], fx.Node):
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


