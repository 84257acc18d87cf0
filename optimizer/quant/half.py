"""Which nodes can compute in half precision: what they are, and what they show on calibration data."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from tersor.convolution import EVERY
from tersor.interface import Flat
from tersor.program import Program
from tersor.quant.stored import is_kept_small
from tersor.rewrite_values import arguments, key

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""By name."""

LACKING = {("onnxruntime", "cpu"): ("bfloat16",)}
"""What a backend has next to no kernels for on a device; float16 it computes by casts where it has none."""

LAYERS = ("linear", *EVERY, "matmul", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention", "einsum",
          "embedding")  # fmt: skip
"""What gets faster or smaller; everything else follows the values around it."""

SUMS = (
    "layer_norm", "native_layer_norm", "rms_norm", "group_norm", "native_group_norm", "instance_norm", "batch_norm",
    "_native_batch_norm_legit_no_training", "softmax", "_softmax", "log_softmax", "_log_softmax", "logsumexp", "sum",
    "mean", "var", "std", "var_mean", "norm", "linalg_vector_norm", "cumsum", "cumprod", "prod", "exp", "expm1", "log",
    "log1p", "log2", "log10", "pow", "rsqrt", "reciprocal", "cdist", "_cdist_forward", "dist", "erfinv", "tan",
)  # fmt: skip
"""Sums over many values, and functions that amplify rounding errors (PyTorch, "Automatic Mixed Precision", float32)."""

MOVES = (
    "view", "reshape", "permute", "transpose", "t", "flatten", "unflatten", "squeeze", "unsqueeze", "slice", "select",
    "expand", "contiguous", "clone", "cat", "stack", "split", "split_with_sizes", "unbind", "chunk", "roll",
    "repeat", "flip", "index", "index_select", "gather", "pixel_shuffle", "pixel_unshuffle", "alias",
    "detach", "max_pool1d", "max_pool2d", "max_pool3d", "narrow", "pad", "constant_pad_nd",
)  # fmt: skip
"""Give out numbers that they took in: they take the precision of what they read."""


def is_single(value: Any) -> bool:
    """Whether a fake value is float32, or a list of such.

    >>> is_single([torch.ones(1), torch.ones(1)]), is_single(torch.ones(1).half())
    (True, False)
    """
    values = value if isinstance(value, list | tuple) else [value]
    return bool(values) and all(isinstance(item, Tensor) and item.dtype == torch.float32 for item in values)


def singles(node: fx.Node) -> list[fx.Node]:
    """The float32 operands of a node."""
    return [source for source in node.all_input_nodes if is_single(source.meta.get("val"))]


def fixed(node: fx.Node, name: str) -> str | None:
    """Why a node stays in float32 whatever it computes; None where it need not, "" where that is no decision."""
    if node.op != "call_function" or not is_single(node.meta.get("val")):
        return ""
    given = list(arguments(node).values())
    foreign = [s for s in node.all_input_nodes if isinstance(v := s.meta.get("val"), Tensor) and not is_single(v)]
    if not singles(node) or any(s.meta["val"].dtype.is_floating_point or s.meta["val"].is_complex() for s in foreign):
        return ""
    if any(isinstance(item, torch.dtype) for item in given) or key(node).startswith("quantized_decomposed"):
        return ""
    if "::" in key(node):
        return f"{key(node)} is not known to compute in {name}"
    if is_kept_small(node) or any(is_kept_small(item) for item in given):
        return "its weight is stored in fewer bits"
    return f"{key(node)} in {name} would lose bits" if key(node) in SUMS else None


class Ranges(fx.Interpreter):
    """Finds nodes that cannot compute in a dtype, by computing each of them in it beside the run in float32.

    Attributes:
        bad: reason by node name.
    """

    def __init__(self, program: Program, nodes: Collection[str], dtype: torch.dtype, margin: float) -> None:
        super().__init__(program.module(), garbage_collect_values=True)
        self.nodes, self.dtype, self.margin = nodes, dtype, margin
        self.bad: dict[str, str] = {}
        self.tried: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        """The result in float32."""
        made = super().run_node(n)
        if n.name in self.nodes and n.name not in self.bad:
            reason = _too_large("its result", made, self.dtype, self.margin) or self._operands(n)
            if not reason and n.name not in self.tried:
                reason = self._tried(n, made)
                self.tried.add(n.name)
            if reason:
                self.bad[n.name] = reason
        return made

    def _operands(self, n: fx.Node) -> str:
        for source in n.all_input_nodes:
            reason = _too_large(source.name, self.env[source], self.dtype, self.margin)
            if reason:
                return reason
        if key(n) != "scaled_dot_product_attention":
            return ""
        given = {name: self.env[item] if isinstance(item, fx.Node) else item for name, item in arguments(n).items()}
        query, keys = given["query"], given["key"]
        if query.dim() == 4 and keys.shape[1] != query.shape[1]:
            keys = keys.repeat_interleave(query.shape[1] // keys.shape[1], 1)
        return _too_large("a product of query and key", query @ keys.mT, self.dtype, self.margin)

    def _tried(self, n: fx.Node, wanted: Any) -> str:
        """Run the node in the dtype; also shows what PyTorch has no kernel for."""
        name = str(self.dtype).removeprefix("torch.")

        def half(item: Any) -> Any:
            return item.to(self.dtype) if isinstance(item, Tensor) and item.dtype == torch.float32 else item

        args, kwargs = self.fetch_args_kwargs_from_env(n)
        try:
            made = n.target(*fx.node.map_aggregate(args, half), **fx.node.map_aggregate(kwargs, half))  # type: ignore[operator]
        except Exception as error:
            return f"there is no kernel of {key(n)} in {name}: {str(error).splitlines()[0][:80]}"
        for got, right in zip(_listed(made), _listed(wanted), strict=True):
            if isinstance(got, Tensor) and (
                got.dtype != self.dtype or bool((~got.isfinite() & right.isfinite()).any())
            ):
                return f"{key(n)} overflows in {name}" if got.dtype == self.dtype else f"{key(n)} gives {got.dtype}"
        return ""


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _too_large(what: str, value: Any, dtype: torch.dtype, margin: float) -> str:
    """Why a value does not fit; values that are all tiny lose their bits, too."""
    limits = torch.finfo(dtype)
    for item in _listed(value):
        if not isinstance(item, Tensor) or item.dtype != torch.float32 or not item.numel():
            continue
        peak = float(item.nan_to_num(0.0, 0.0, 0.0).abs().amax())
        if peak * margin > limits.max:
            return f"{what} reaches {peak:.3g}, of {limits.max:.3g} that {limits.dtype} holds"
        if 0 < peak < limits.tiny * margin:
            return f"{what} is at most {peak:.3g}, below what {limits.dtype} resolves"
    return ""


def unfit(
    program: Program, nodes: Collection[str], dtype: torch.dtype, inputs: Sequence[Flat], margin: float
) -> dict[str, str]:
    """Reasons by name of the nodes that cannot compute in a dtype on values ``margin`` times those on these inputs."""
    ranges = Ranges(program, nodes, dtype, margin)
    with torch.no_grad():
        for flat in inputs:
            ranges.run(*flat)
    return ranges.bad
