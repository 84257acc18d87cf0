"""The sizes of the matrix product that a kernel is, or of the rows that it works on."""

from __future__ import annotations

import math

from torch import fx

from tersor.convolution import is_transposed
from tersor.cost.flops import flops
from tersor.cost.fusion import CONVOLUTIONS, kept_run
from tersor.cost.shapes import shape_of
from tersor.rewrite_values import arguments, key


def sizes(node: fx.Node, sort: str) -> dict[str, int]:
    """Fields of `tersor.cost.launches.Launch` for a node of this kind."""
    out = shape_of(node)
    if sort in CONVOLUTIONS:
        return _convolved(node, out)
    if sort == "attention":
        query, keys = shape_of(node.args[0]), shape_of(node.args[1])
        return {"groups": math.prod(query[:-2]), "m": query[-2], "n": keys[-2], "k": query[-1]}
    if sort in ("linear", "bmm") and out:
        return _multiplied(node, sort, out)
    source = shape_of(node.all_input_nodes[0]) if node.all_input_nodes else ()
    shape = max((out, source), key=math.prod, default=())
    if sort == "permute":
        run = max(1, kept_run(node))
        last = next((size for size in reversed(out) if size > 1), 1) if run == 1 else 1
        return {"m": math.prod(shape) // run, "n": run, "groups": last}
    window = (flops(node) or 0) // max(1, math.prod(out)) if sort == "pool" else 1
    return {"m": math.prod(shape[:-1]), "n": shape[-1] if shape else 1, "window": max(1, window)}


def _multiplied(node: fx.Node, sort: str, out: tuple[int, ...]) -> dict[str, int]:
    total = flops(node) or 0
    rows, columns = (out[-2] if len(out) > 1 else 1), out[-1]
    deep = max(1, total // max(1, 2 * math.prod(out)))
    if sort == "linear":
        return {"m": math.prod(out[:-1]), "n": columns, "k": deep}
    return {"groups": math.prod(out[:-2]), "m": rows, "n": columns, "k": deep}


def _convolved(node: fx.Node, out: tuple[int, ...]) -> dict[str, int]:
    given = arguments(node)
    weight, groups = shape_of(given["weight"]), int(given["groups"])
    stride = given["stride"]
    moved = shape_of(given["input"]) if is_transposed(node) else out
    return {
        "groups": groups,
        "m": math.prod(moved) // max(1, moved[1]),
        "n": max(1, weight[1] if is_transposed(node) else weight[0] // groups),
        "k": max(1, math.prod(weight) // max(1, weight[0]) if not is_transposed(node) else weight[0] // groups),
        "window": math.prod(weight[2:]),
        "images": moved[0],
        "stride": int(stride[0] if isinstance(stride, list | tuple) else stride),
    }


def evaluated(node: fx.Node) -> float:
    """Elements for which a node evaluates a function such as an exponential; powers of two are products."""
    from tersor.cost.operators import FUNCTIONS

    name = key(node)
    square = name == "pow" and len(node.args) > 1 and node.args[1] in (2, 2.0)
    return float(math.prod(shape_of(node))) if name in FUNCTIONS and not square else 0.0
