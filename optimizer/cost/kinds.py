"""What kind of kernel runs an operator, by the operator's name."""

from __future__ import annotations

import math

import torch
from torch import fx

from tersor.convolution import EVERY
from tersor.cost.flops import is_product
from tersor.cost.operators import ALIASES, MOVES_DATA
from tersor.rewrite_values import arguments, key

DEQUANTIZE = frozenset(("dequantize_per_tensor", "dequantize_per_channel", "dequantize_per_channel_group"))
_BATCHED = ("bmm", "baddbmm", "einsum")
_NORMS = (
    "layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "rms_norm", "_fused_rms_norm",
    "instance_norm",
)  # fmt: skip
_BATCH_NORMS = ("batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
_REDUCTIONS = (
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "argmax", "argmin", "prod", "cumsum",
    "linalg_vector_norm", "norm", "logsumexp", "topk", "sort",
)  # fmt: skip
_UNREAD = frozenset(("empty", "empty_like", "new_empty", "scalar_tensor", "item", "_local_scalar_dense"))
_BY_NAME = {
    **dict.fromkeys(_NORMS, "norm"),
    **dict.fromkeys(_BATCH_NORMS, "batch_norm"),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), "softmax"),
    **dict.fromkeys(_REDUCTIONS, "reduction"),
}


def is_alias(node: fx.Node) -> bool:
    """Whether a node only shows memory that another one made, or no memory at all."""
    name = key(node)
    if name in ("reshape", "flatten", "contiguous", "_unsafe_view"):
        return not copies(node)
    return name in ALIASES or name in ("getitem", "lift_fresh_copy") or name.startswith(("operator.", "sym_"))


def copies(node: fx.Node) -> bool:
    """Whether a change of shape has to move the data, since the source does not lie in order."""
    source = node.all_input_nodes[0].meta.get("val") if node.all_input_nodes else None
    return isinstance(source, torch.Tensor) and not source.is_contiguous()


def kind(node: fx.Node) -> str:
    """The kind of kernel: "linear", "bmm", "conv", "depthwise", "attention", "softmax", ...; empty where none runs."""
    if node.op != "call_function" or is_alias(node) or not _yields_tensor(node):
        return ""
    name = key(node)
    if name.startswith("quantized_decomposed::"):
        return "" if name.removeprefix("quantized_decomposed::") in DEQUANTIZE else "elementwise"
    if is_product(node):
        return _product(node, name)
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name in _UNREAD:
        return ""
    if name in MOVES_DATA or name == "contiguous" or name.startswith(("upsample", "grid_sampler")):
        return "move"
    if "pool" in name:
        return "pool"
    return "elementwise" if isinstance(node.target, torch._ops.OpOverload) else ""


def _product(node: fx.Node, name: str) -> str:
    if name in EVERY or name == "_convolution":
        return _convolution(node)
    if "attention" in name:
        return "attention"
    if name in _BATCHED:
        return "bmm"
    if name == "matmul":
        right = node.args[1] if len(node.args) > 1 else None
        value = right.meta.get("val") if isinstance(right, fx.Node) else None
        return "bmm" if isinstance(value, torch.Tensor) and value.dim() > 2 else "linear"
    return "linear"


def _convolution(node: fx.Node) -> str:
    given = arguments(node)
    weight = given["weight"].meta["val"]
    groups = int(given["groups"])
    if groups == 1:
        return "conv" if math.prod(weight.shape[2:]) > 1 else "pointwise_conv"
    return "depthwise" if weight.shape[1] == 1 else "grouped_conv"


def _yields_tensor(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) or (
        isinstance(value, list | tuple) and any(isinstance(item, torch.Tensor) for item in value)
    )
