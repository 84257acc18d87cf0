"""Floating-point operations of a node and of a program, counted from shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from tersor.cost.einsum import einsum_flops
from tersor.cost.operators import MOVES_DATA, UNCOUNTED
from tersor.cost.shapes import hints, numel
from tersor.program import Program


@dataclass(frozen=True)
class FlopCount:
    """Floating-point operations of one run at the example sizes.

    Attributes:
        products: of matrix products, convolutions and attention; a multiply-add is two, a bias nothing.
        elementwise: one per element of everything else that computes (activations, norms, softmax, pooling windows).
        unknown: names of nodes whose work is not known, such as opaque ONNX nodes.
    """

    products: int
    elementwise: int
    unknown: tuple[str, ...] = ()


def program_flops(program: Program) -> FlopCount:
    """Sum of `flops` over all nodes, products and elementwise work apart.

    Dynamic dimensions have the sizes of the example inputs.
    """
    products = elementwise = 0
    unknown: list[str] = []
    for node in program.nodes:
        count = flops(node)
        if count is None:
            unknown.append(node.name)
        elif _name(node) in _PRODUCTS:
            products += count
        else:
            elementwise += count
    return FlopCount(products, elementwise, tuple(unknown))


def flops(node: fx.Node) -> int | None:
    """Floating-point operations of one node, from ``meta["val"]`` of itself and its inputs; None where unknown.

    A multiply-add counts two, as in `torch.utils.flop_counter`. Attention counts both products, at the number of
    query heads, and is dense even where it is causal or masked. Data movement and embeddings count nothing.
    """
    if node.op != "call_function":
        return 0
    if not isinstance(node.target, torch._ops.OpOverload):
        return 0 if _is_scalar_arithmetic(node) else None
    if node.target.namespace not in _NAMESPACES or "val" not in node.meta:
        return None
    name = _name(node)
    if name in MOVES_DATA or not _shape_of(node):
        return 0
    if name in _PRODUCTS:
        return _PRODUCTS[name](node)
    if name.startswith(UNCOUNTED):
        return None
    return _elementwise(node, name)


def is_product(node: fx.Node) -> bool:
    """Whether a node's work is a matrix product, a convolution or an attention."""
    return node.op == "call_function" and _name(node) in _PRODUCTS


_NAMESPACES = ("aten", "prims", "quantized_decomposed")


def _name(node: fx.Node) -> str:
    target = node.target
    return str(target._overloadpacket.__name__) if isinstance(target, torch._ops.OpOverload) else ""


def _is_scalar_arithmetic(node: fx.Node) -> bool:
    value = node.meta.get("val")
    is_builtin = getattr(node.target, "__module__", "") in ("_operator", "operator", "math", "torch")
    return getattr(node.target, "__name__", "") == "getitem" or (is_builtin and not isinstance(value, torch.Tensor))


def _shape_of(value: Any) -> bool:
    """Whether the node yields tensors at all, rather than sizes."""
    return any(True for _ in _tensors(value))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    found = value.meta.get("val") if isinstance(value, fx.Node) else value
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, list | tuple):
        for item in found:
            yield from _tensors(item)


def _argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    return node.args[index] if index < len(node.args) else node.kwargs.get(name, default)


def _shape(node: fx.Node, index: int, name: str) -> tuple[int, ...] | None:
    tensors = list(_tensors(_argument(node, index, name)))
    return hints(tensors[0].shape) if tensors else None


def _output_shape(node: fx.Node) -> tuple[int, ...] | None:
    return hints(next(_tensors(node)).shape)


def _contraction(index: int, name: str) -> Callable[[fx.Node], int | None]:
    """Two per output element and contracted element; the last axis of that argument is contracted."""

    def count(node: fx.Node) -> int | None:
        left, out = _shape(node, index, name), _output_shape(node)
        if left is None or out is None:
            return None
        return 2 * math.prod(out) * (left[-1] if left else 1)

    return count


def _convolution(node: fx.Node) -> int | None:
    name = _name(node)
    transposed = name.startswith("conv_transpose") or (name == "convolution" and bool(_argument(node, 6, "transposed")))
    weight = _shape(node, 1, "weight")
    moved = _shape(node, 0, "input") if transposed else _output_shape(node)
    if weight is None or moved is None:
        return None
    return 2 * math.prod(moved) * math.prod(weight[1:])


def _attention(node: fx.Node) -> int | None:
    query, key, value = (_shape(node, i, name) for i, name in enumerate(("query", "key", "value")))
    if query is None or key is None or value is None:
        return None
    batch_and_heads = math.prod(query[:-2])
    return 2 * batch_and_heads * query[-2] * key[-2] * (query[-1] + value[-1])


def _einsum(node: fx.Node) -> int | None:
    equation = str(_argument(node, 0, "equation"))
    operands = [hints(tensor.shape) for tensor in _tensors(list(_argument(node, 1, "tensors")))]
    shapes = [shape for shape in operands if shape is not None]
    return einsum_flops(equation, shapes) if len(shapes) == len(operands) else None


def _recurrent(node: fx.Node) -> int | None:
    """Each weight matrix meets each element of the sequence once."""
    sequence = _shape(node, 0, "input")
    weights = [numel(tensor) for argument in node.args[2:4] for tensor in _tensors(argument) if tensor.dim() == 2]
    known = [weight for weight in weights if weight is not None]
    if sequence is None or len(known) < len(weights):
        return None
    return 2 * math.prod(sequence[:-1]) * sum(known)


_PRODUCTS: dict[str, Callable[[fx.Node], int | None]] = {
    **dict.fromkeys(("linear", "matmul", "mm", "bmm", "mv", "dot", "inner", "_int_mm"), _contraction(0, "input")),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _contraction(1, "mat1")),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution", "_convolution"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution),
    **dict.fromkeys(
        (
            "scaled_dot_product_attention",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention",
            "_scaled_dot_product_attention_math",
        ),
        _attention,
    ),
    "einsum": _einsum,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
}


def _elementwise(node: fx.Node, name: str) -> int | None:
    counts = [numel(tensor) for tensor in _tensors(node)]
    if any(count is None for count in counts):
        return None
    if "pool" in name and "adaptive" not in name and not name.startswith("mean"):
        kernel = _argument(node, 1, "kernel_size", 1)
        window = math.prod(kernel) if isinstance(kernel, list | tuple) else int(kernel) ** _spatial(name)
        return (counts[0] or 0) * window
    inputs = [numel(tensor) for argument in node.all_input_nodes for tensor in _tensors(argument)]
    return max(count for count in (*counts, *inputs, 0) if count is not None)


def _spatial(name: str) -> int:
    return next((rank for rank in (1, 2, 3) if f"{rank}d" in name), 1)
