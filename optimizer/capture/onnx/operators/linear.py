"""Matrix products: MatMul, Gemm, Einsum, and the determinant."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tersor.capture.onnx.operators.integers import modular
from tersor.capture.onnx.operators.precision import as_type, at_least_single
from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Opaque


@operator("MatMul")
def _matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return modular(torch.matmul, a, b)


@operator("Gemm")
def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    return gemm(node, a, b, c)


def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """``alpha * A' * B' + beta * C``, with ``C`` broadcast to the product (ONNX operator Gemm)."""
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    a = a.t() if node.get("transA", 0) else a
    if not a.is_floating_point():
        return _integer_gemm(a, b.t() if node.get("transB", 0) else b, c, alpha, beta)
    weight = b if node.get("transB", 0) else b.t()
    bias = None if c is None or beta == 0 else c if beta == 1 else c * beta
    if alpha == 1 and bias is not None and _is_row(bias, weight):
        return F.linear(a, weight, bias if bias.dim() == 1 else bias.reshape(-1))
    product = F.linear(a, weight)
    product = product if alpha == 1 else product * alpha
    return product if bias is None else product + bias


def _is_row(bias: Tensor, weight: Tensor) -> bool:
    sizes = (*bias.shape, weight.shape[0])
    return all(isinstance(s, int) for s in sizes) and tuple(bias.shape) in ((sizes[-1],), (1, sizes[-1]))


def _integer_gemm(a: Tensor, b: Tensor, c: Tensor | None, alpha: float, beta: float) -> Tensor:
    if alpha != 1 or (c is not None and beta not in (0, 1)):
        raise Opaque("an integer Gemm with a factor")
    product = modular(torch.matmul, a, b)
    return product if c is None or beta == 0 else modular(torch.add, product, c)


@operator("Einsum")
def _einsum(node: Node, *inputs: Tensor) -> Tensor:
    return modular(lambda *xs: torch.einsum(node.get("equation").replace(" ", ""), *xs), *inputs)


@operator("Det")
def _det(node: Node, x: Tensor) -> Tensor:
    wide = at_least_single(x)
    return as_type(torch.linalg.det(wide), x.dtype)
