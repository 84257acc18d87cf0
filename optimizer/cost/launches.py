"""What a program launches: one kernel per operator, less what the backend fuses, each with its work and its traffic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import fx

from tersor.cost.blocked import conversions, converted_bytes
from tersor.cost.flops import flops
from tersor.cost.fusion import FUSION, Fusion, Reader, groups
from tersor.cost.kinds import kind
from tersor.cost.operators import SLICES
from tersor.cost.precision import PRODUCTS, element_types, size
from tersor.cost.shapes import stored_elements
from tersor.cost.sizes import evaluated, sizes
from tersor.rewrite_values import arguments, key

__all__ = ["FUSION", "Fusion", "Launch", "launches"]


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
        functions: elements for which it evaluates a function such as an exponential.
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
    functions: float = 0.0

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
            functions=self.functions * factor,
        )


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
    reader = Reader.of(graph, FUSION.get(backend, Fusion()))
    made: list[Launch] = []
    found = groups(graph, reader)
    turned = list(conversions(found, reader)) if reader.fusion.blocked else []
    for place, members in enumerate(found):
        made += [_conversion(owner) for where, owner in turned if where == place]
        if precision == "amp" and not reader.fusion.chain:
            made += _casts(members[0], types, reader)
        made.append(_launch(members, types, sparse, reader))
        made += _beside(members[0], made[-1]) if reader.fusion.blocked else []
    return made


def _beside(node: fx.Node, launch: Launch) -> list[Launch]:
    """What ONNX Runtime runs to mask scores: an addition, or for a Boolean mask a choice, a test and a choice."""
    if launch.kind != "attention" or launch.nodes[0] != node.name:
        return []
    given = arguments(node)
    mask = given.get("attn_mask")
    if not isinstance(mask, fx.Node) and not given.get("is_causal"):
        return []
    truth = isinstance(mask, fx.Node) and mask.meta["val"].dtype.itemsize == 1
    rows = launch.groups * launch.m
    one = Launch("elementwise", (f"{node.name}_mask",), "float32", moved=8.0 * rows * launch.n, m=rows, n=launch.n)
    return [one] * (3 if truth else 1)


def _launch(
    members: list[fx.Node], types: dict[fx.Node, str], sparse: Callable[[fx.Node], bool], reader: Reader
) -> Launch:
    main = next((node for node in members if reader.kind(node) != "elementwise"), members[0])
    sort = reader.kind(main)
    if sort == "norm" and len(members) > 1 and reader.fusion.ends:
        sort = "skip_norm"
    moved, weights = _traffic(members, types, reader)
    work = sum(flops(node) or 0 for node in members if reader.kind(node) in PRODUCTS)
    weight = _weight(main, reader)
    return Launch(
        sort,
        (main.name, *(node.name for node in members if node is not main)),
        _compute_type(main, sort, types),
        float(work),
        moved,
        weights,
        **sizes(main, sort),
        sparse=weight is not None and sparse(weight),
        functions=sum(evaluated(node) for node in members),
    )


def _conversion(owner: fx.Node) -> Launch:
    moved = converted_bytes(owner)
    return Launch("convert", (owner.name,), "float32", moved=moved, m=1, n=int(moved / 8))


def _compute_type(node: fx.Node, sort: str, types: dict[fx.Node, str]) -> str:
    """Products compute in the dtype of what they read; 8 bits only where activations and weight both have them."""
    if sort not in PRODUCTS:
        return types.get(node, "float32")
    read = [types[source] for source in node.all_input_nodes[:2] if source in types]
    if "float16" in (types.get(node), *read) and "float32" in read:
        return "float16" if types.get(node) == "float16" else "float32"
    widest = max(read, key=size, default=types.get(node, "float32"))
    return "int8" if widest == "uint8" else widest


def _traffic(members: list[fx.Node], types: dict[fx.Node, str], reader: Reader) -> tuple[float, float]:
    """Bytes of activations, and of weights: what comes from outside once, and what somebody else takes."""
    inside = set(members)
    moved = weights = 0.0
    seen: set[fx.Node] = set()
    for node in members:
        precise = types.get(node, "float32")
        for source in node.all_input_nodes:
            if source in seen or reader.owner(source) in inside:
                continue
            seen.add(source)
            amount = stored_elements(source.meta.get("val"))
            if reader.is_weight(reader.owner(source)):
                weights += amount * min(size(types.get(source, "float32")), size(precise))
            else:
                moved += _read(node, amount) * _read_size(node, source, types)
        if not node.users or any(user not in inside for user in node.users):
            moved += stored_elements(node.meta.get("val")) * size(precise)
    return moved, weights


def _read(node: fx.Node, amount: float) -> float:
    """Elements that are read: of a table or a whole that is cut only what is taken."""
    if key(node) in ("embedding", "index", "index_select", "gather") or key(node) in SLICES:
        return min(amount, stored_elements(node.meta.get("val")))
    return amount


def _read_size(node: fx.Node, source: fx.Node, types: dict[fx.Node, str]) -> float:
    own = size(types.get(source, "float32"))
    return min(own, size(types.get(node, "float32"))) if kind(node) in PRODUCTS else own


def _casts(node: fx.Node, types: dict[fx.Node, str], reader: Reader) -> Iterator[Launch]:
    """The conversions that autocast puts before a product."""
    if kind(node) not in PRODUCTS:
        return
    for source in node.all_input_nodes:
        if types.get(source) == "float32" and reader.owner(source).op == "call_function":
            amount = stored_elements(source.meta.get("val"))
            yield Launch("elementwise", (f"{source.name}_half",), "float16", moved=6.0 * amount, m=1, n=int(amount))


def _weight(node: fx.Node, reader: Reader) -> fx.Node | None:
    if kind(node) not in PRODUCTS or len(node.all_input_nodes) < 2:
        return None
    weight = reader.owner(node.all_input_nodes[1])
    return weight if weight.op == "get_attr" else None
