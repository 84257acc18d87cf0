"""What a program launches: one kernel per operator, less what the backend fuses, each with its work and its traffic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from tersor.convolution import is_transposed
from tersor.cost.flops import flops
from tersor.cost.kinds import is_alias, kind
from tersor.cost.precision import PRODUCTS, element_types, size
from tersor.cost.shapes import hints
from tersor.rewrite_values import arguments, key


@dataclass(frozen=True)
class Launch:
    """One kernel. Matrix sizes are those of the implicit product of a layer or convolution; others have ``k`` 0.

    Attributes:
        kind: as `tersor.cost.kinds.kind` says.
        nodes: names of the nodes that it runs, the one that gives its kind first.
        dtype: that it computes in.
        flops: of products; a multiply-add is two.
        moved: bytes of activations that it reads and writes.
        weights: bytes of weights.
        groups, m, n, k: independent products, rows, columns, contracted length; of a row-wise kernel m rows of n.
        window: positions of a convolution's kernel.
        stride: of a convolution.
        images: that a convolution works on.
        sparse: whether its weight is 2:4.
    """

    kind: str
    nodes: tuple[str, ...]
    dtype: str
    flops: float = 0.0
    moved: float = 0.0
    weights: float = 0.0
    groups: int = 1
    m: int = 1
    n: int = 1
    k: int = 0
    window: int = 1
    stride: int = 1
    images: int = 1
    sparse: bool = False

    @property
    def bytes(self) -> float:
        """All bytes that it moves."""
        return self.moved + self.weights

    def scaled(self, factor: float) -> Launch:
        """The same at so many times the batch."""
        batched = self.kind in ("bmm", "attention")
        return replace(
            self,
            flops=self.flops * factor,
            moved=self.moved * factor,
            groups=max(1, round(self.groups * factor)) if batched else self.groups,
            m=self.m if batched else max(1, round(self.m * factor)),
            images=max(1, round(self.images * factor)),
        )


@dataclass(frozen=True)
class Fusion:
    """Which operators a backend runs in one kernel.

    Attributes:
        epilogue: elementwise operators and batch norms join the product whose result they take.
        chain: elementwise operators join each other and the norms, reductions and copies before them.
    """

    epilogue: bool = False
    chain: bool = False


FUSION = {
    "eager": Fusion(),
    "inductor": Fusion(chain=True),
    "triton": Fusion(epilogue=True, chain=True),
    "onnxruntime": Fusion(epilogue=True),
    "openvino": Fusion(epilogue=True, chain=True),
    "tensorrt": Fusion(epilogue=True, chain=True),
}


def launches(
    graph: fx.Graph,
    backend: str = "eager",
    precision: str = "",
    sparse: Callable[[fx.Node], bool] = lambda weight: False,
) -> list[Launch]:
    """The kernels of one run at the example sizes, in order.

    Args:
        graph: of ATen operators with ``meta["val"]``.
        backend: whose fusion rules hold.
        precision: see `tersor.cost.precision.PRECISIONS`.
        sparse: whether a weight is to be taken as 2:4.
    """
    types = element_types(graph, precision)
    groups = _groups(graph, FUSION.get(backend, Fusion()))
    made: list[Launch] = []
    for members in groups:
        if precision == "amp" and not FUSION.get(backend, Fusion()).chain:
            made += _casts(members[0], types)
        made.append(_launch(members, types, sparse))
    return made


def _groups(graph: fx.Graph, fusion: Fusion) -> list[list[fx.Node]]:
    where: dict[fx.Node, list[fx.Node]] = {}
    order: dict[fx.Node, int] = {}
    groups: list[list[fx.Node]] = []
    for node in graph.nodes:
        if not (sort := kind(node)):
            continue
        source = max(_producers(node), key=lambda item: order.get(item, -1), default=None)
        joined = where.get(source) if source is not None else None
        if joined is None or source is None or not _joins(sort, joined, len(source.users) == 1, fusion):
            joined = []
            groups.append(joined)
        joined.append(node)
        where[node] = joined
        order[node] = len(order)
    return groups


def _joins(sort: str, group: list[fx.Node], alone: bool, fusion: Fusion) -> bool:
    """Whether a node runs with the latest of what it reads; ``alone`` where nobody else reads that."""
    first = kind(group[0])
    if sort not in ("elementwise", "batch_norm"):
        return fusion.chain and sort in ("norm", "softmax", "reduction") and first == "elementwise"
    if first in PRODUCTS:
        return fusion.epilogue and alone and first != "attention"
    return fusion.chain


def _producers(node: fx.Node) -> Iterator[fx.Node]:
    """The operators whose results a node reads, views in between skipped."""
    for source in node.all_input_nodes:
        owner = _owner(source)
        if owner.op == "call_function":
            yield owner


def _launch(members: list[fx.Node], types: dict[fx.Node, str], sparse: Callable[[fx.Node], bool]) -> Launch:
    main = next((node for node in members if kind(node) != "elementwise"), members[0])
    sort = kind(main)
    moved, weights = _traffic(members, types)
    work = sum(flops(node) or 0 for node in members if kind(node) in PRODUCTS)
    weight = _weight(main)
    return Launch(
        sort,
        (main.name, *(node.name for node in members if node is not main)),
        _compute_type(main, sort, types),
        float(work),
        moved,
        weights,
        **_sizes(main, sort),
        sparse=weight is not None and sparse(weight),
    )


def _compute_type(node: fx.Node, sort: str, types: dict[fx.Node, str]) -> str:
    """Products compute in the dtype of what they read; 8 bits only where activations and weight both have them."""
    if sort not in PRODUCTS:
        return types.get(node, "float32")
    read = [types[source] for source in node.all_input_nodes[:2] if source in types]
    if "float16" in (types.get(node), *read) and "float32" in read:
        return "float16" if types.get(node) == "float16" else "float32"
    return max(read, key=size, default=types.get(node, "float32"))


def _traffic(members: list[fx.Node], types: dict[fx.Node, str]) -> tuple[float, float]:
    """Bytes of activations, and of weights: what comes from outside once, and what somebody else takes."""
    inside = set(members)
    moved = weights = 0.0
    seen: set[fx.Node] = set()
    for node in members:
        precise = types.get(node, "float32")
        for source in node.all_input_nodes:
            if source in seen or _owner(source) in inside:
                continue
            seen.add(source)
            amount = _elements(source.meta.get("val"))
            if _owner(source).op == "get_attr":
                weights += amount * min(size(types.get(source, "float32")), size(precise))
            else:
                moved += _read(node, source, amount) * _read_size(node, source, types)
        if not node.users or any(user not in inside for user in node.users):
            moved += _elements(node.meta.get("val")) * size(precise)
    return moved, weights


def _read(node: fx.Node, source: fx.Node, amount: float) -> float:
    """Elements that are read: of a looked-up table only what is taken."""
    if key(node) in ("embedding", "index", "index_select", "gather"):
        return min(amount, _elements(node.meta.get("val")))
    return amount


def _read_size(node: fx.Node, source: fx.Node, types: dict[fx.Node, str]) -> float:
    own = size(types.get(source, "float32"))
    return min(own, size(types.get(node, "float32"))) if kind(node) in PRODUCTS else own


def _casts(node: fx.Node, types: dict[fx.Node, str]) -> Iterator[Launch]:
    """The conversions that autocast puts before a product."""
    if kind(node) not in PRODUCTS:
        return
    for source in node.all_input_nodes:
        if types.get(source) == "float32" and _owner(source).op == "call_function":
            amount = _elements(source.meta.get("val"))
            yield Launch("elementwise", (f"{source.name}_half",), "float16", moved=6.0 * amount, m=1, n=int(amount))


def _owner(node: fx.Node) -> fx.Node:
    while node.op == "call_function" and node.all_input_nodes and (is_alias(node) or _dequantizes(node)):
        node = node.all_input_nodes[0]
    return node


def _dequantizes(node: fx.Node) -> bool:
    return key(node).startswith("quantized_decomposed::dequantize")


def _weight(node: fx.Node) -> fx.Node | None:
    if kind(node) not in PRODUCTS or len(node.all_input_nodes) < 2:
        return None
    weight = _owner(node.all_input_nodes[1])
    return weight if weight.op == "get_attr" else None


def _elements(value: Any) -> float:
    """Elements of memory: broadcast dimensions count once."""
    if isinstance(value, list | tuple):
        return sum(_elements(item) for item in value)
    if not isinstance(value, torch.Tensor):
        return 0.0
    sizes = hints(value.shape)
    if sizes is None:
        return 0.0
    strides = value.stride()
    return float(math.prod(n for n, step in zip(sizes, strides, strict=True) if isinstance(step, torch.SymInt) or step))


def _shape(node: Any) -> tuple[int, ...]:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    first = value[0] if isinstance(value, list | tuple) and value else value
    return (hints(first.shape) or ()) if isinstance(first, torch.Tensor) else ()


def _sizes(node: fx.Node, sort: str) -> dict[str, int]:
    out = _shape(node)
    if sort in ("conv", "pointwise_conv", "grouped_conv", "depthwise"):
        return _convolved(node, out)
    if sort == "attention":
        query, keys = _shape(node.args[0]), _shape(node.args[1])
        return {"groups": math.prod(query[:-2]), "m": query[-2], "n": keys[-2], "k": query[-1]}
    if sort in ("linear", "bmm") and out:
        total = flops(node) or 0
        rows, columns = (out[-2] if len(out) > 1 else 1), out[-1]
        deep = max(1, total // max(1, 2 * math.prod(out)))
        if sort == "linear":
            return {"m": math.prod(out[:-1]), "n": columns, "k": deep}
        return {"groups": math.prod(out[:-2]), "m": rows, "n": columns, "k": deep}
    source = _shape(node.all_input_nodes[0]) if node.all_input_nodes else ()
    shape = max((out, source), key=math.prod, default=())
    return {"m": math.prod(shape[:-1]), "n": shape[-1] if shape else 1}


def _convolved(node: fx.Node, out: tuple[int, ...]) -> dict[str, int]:
    given = arguments(node)
    weight, groups = _shape(given["weight"]), int(given["groups"])
    stride = given["stride"]
    moved = _shape(given["input"]) if is_transposed(node) else out
    return {
        "groups": groups,
        "m": math.prod(moved) // max(1, moved[1]),
        "n": max(1, weight[1] if is_transposed(node) else weight[0] // groups),
        "k": max(1, math.prod(weight) // max(1, weight[0]) if not is_transposed(node) else weight[0] // groups),
        "window": math.prod(weight[2:]),
        "images": moved[0],
        "stride": int(stride[0] if isinstance(stride, list | tuple) else stride),
    }
