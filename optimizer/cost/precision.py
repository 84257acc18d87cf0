"""Which dtype each value has where a program is run in another precision than it was captured in."""

from __future__ import annotations

import torch
from torch import fx

from tersor.cost.kinds import is_alias, kind
from tersor.errors import UsageError
from tersor.rewrite_values import key

PRECISIONS = ("", "float32", "tf32", "float16", "bfloat16", "float8", "int8", "amp")
"""As captured; everything in one dtype; layers in 8 bits and the rest in half; torch.autocast."""
ALIASES_OF = {"fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp8": "float8"}
BYTES = {
    "float64": 8,
    "float32": 4,
    "tf32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8": 1,
    "int8": 1,
    "uint8": 1,
    "int64": 8,
}
PRODUCTS = ("linear", "bmm", "conv", "pointwise_conv", "grouped_conv", "depthwise", "attention")
_LAYERS = ("linear", "conv", "pointwise_conv", "grouped_conv", "depthwise")
_IN_FLOAT32 = ("norm", "softmax", "reduction")
"""What torch.autocast keeps in float32 (PyTorch, "CUDA Ops that can autocast to float32")."""


def precision_named(name: str) -> str:
    """The precision as it is spelled here; raises UsageError.

    >>> precision_named("fp16")
    'float16'
    """
    plain = ALIASES_OF.get(name.lower(), name.lower())
    if plain not in PRECISIONS:
        raise UsageError(f"unknown precision {name!r}", f"known: {', '.join(filter(None, PRECISIONS))}")
    return plain


def element_types(graph: fx.Graph, precision: str = "") -> dict[fx.Node, str]:
    """The dtype of each node's value, by node; integers and Booleans stay what they are."""
    found: dict[fx.Node, str] = {}
    for node in graph.nodes:
        own = own_type(node)
        if not own:
            continue
        if own.startswith("float") or own == "bfloat16":
            found[node] = _floating(node, precision, own, found)
        else:
            found[node] = own
    return found


def own_type(node: fx.Node) -> str:
    """The dtype that a node's value was captured in, dequantized ones as integers; empty for no tensor."""
    if key(node).startswith("quantized_decomposed::dequantize"):
        return own_type(node.all_input_nodes[0])
    value = node.meta.get("val")
    first = (
        next((item for item in value if isinstance(item, torch.Tensor)), None)
        if isinstance(value, list | tuple)
        else value
    )
    return str(first.dtype).removeprefix("torch.") if isinstance(first, torch.Tensor) else ""


def _floating(node: fx.Node, precision: str, own: str, found: dict[fx.Node, str]) -> str:
    if not precision or own == "float64":
        return own
    if precision == "amp":
        return _autocast(node, found)
    if precision in ("int8", "float8"):
        return precision if _beside_layer(node) else "float16"
    return precision


def _autocast(node: fx.Node, found: dict[fx.Node, str]) -> str:
    if node.op != "call_function":
        return "float32"
    sort = kind(node)
    if sort in PRODUCTS:
        return "float16"
    if sort in _IN_FLOAT32:
        return "float32"
    sources = [found[source] for source in node.all_input_nodes if source in found]
    if sort in ("batch_norm", "move") or is_alias(node):
        sources = sources[:1]
    return "float32" if not sources or "float32" in sources else "float16"


def _beside_layer(node: fx.Node) -> bool:
    """Whether a layer reads the value: it is stored in 8 bits then."""
    return any(kind(user) in _LAYERS for user in node.users)


def size(dtype: str) -> float:
    """Bytes of one element."""
    if dtype in BYTES:
        return BYTES[dtype]
    found = getattr(torch, dtype, None)
    return float(found.itemsize) if isinstance(found, torch.dtype) else 4.0
