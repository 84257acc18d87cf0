"""Rotary position embeddings as one node (Su et al., arXiv:2104.09864), which ONNX has from opset 23 on.

Models turn pairs of channels in one of two spellings: over the whole head, ``x * cos + rotated(x) * sin`` with the
angles of the first half repeated for the second, or half by half. RotaryEmbedding reads the angles of one half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy
import onnx_ir as ir

from tersor.export.edit import (
    add_constant,
    along_last,
    apply_rules,
    constant_array,
    constant_ints,
    dims_of,
    insert_before,
    is_op,
    made_by,
    replace,
    same_dims,
)

OPSET = 23
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_ALONG = ("Cos", "Sin", "Cast", "Identity", "Neg")
"""Operators that keep equal halves equal, whatever else they do."""


@dataclass(frozen=True)
class _Turn:
    """What is turned, [batch, heads, tokens, width], and cosine and sine, of half the width or of all of it."""

    x: ir.Value
    cos: ir.Value
    sin: ir.Value


def fuse_rotary(graph: ir.Graph) -> bool:
    """Write rotary embeddings as RotaryEmbedding where the file's opset has it; True where something changed."""
    if graph.opset_imports.get("", 0) < OPSET:
        return False
    return apply_rules(graph, {"Add": _whole, "Concat": _by_halves})


def _whole(graph: ir.Graph, node: ir.Node) -> bool:
    """``x * cos + concat(-second(x), first(x)) * sin``."""
    for plain, turned in (node.inputs, node.inputs[::-1]):
        for x, cos in _factors(plain):
            for rotated, sin in _factors(turned):
                if _is_rotated(rotated, x) and _repeats(cos) and _repeats(sin):
                    return _put(graph, node, _Turn(x, cos, sin))
    return False


def _by_halves(graph: ir.Graph, node: ir.Node) -> bool:
    """``concat(first * cos - second * sin, second * cos + first * sin)``."""
    dims = dims_of(node.outputs[0])
    if len(node.inputs) != 2 or dims is None or not along_last(node, len(dims)):
        return False
    low, high = made_by(node.inputs[0], "Sub"), made_by(node.inputs[1], "Add")
    if low is None or high is None:
        return False
    for first, cos in _factors(low.inputs[0]):
        for second, sin in _factors(low.inputs[1]):
            wanted = {frozenset((id(second), id(cos))), frozenset((id(first), id(sin)))}
            made = {frozenset(map(id, pair)) for value in high.inputs for pair in _factors(value)}
            x = _halves_of(first, second)
            if x is not None and made == wanted:
                return _put(graph, node, _Turn(x, cos, sin))
    return False


def _factors(value: ir.Value | None) -> Iterator[tuple[ir.Value, ir.Value]]:
    """A product's two factors, in both orders."""
    product = made_by(value, "Mul")
    if product is not None:
        a, b = product.inputs
        if a is not None and b is not None:
            yield a, b
            yield b, a


def _is_rotated(value: ir.Value, x: ir.Value) -> bool:
    """Whether a value is the second half of ``x``, negated, and then the first."""
    joined, dims = made_by(value, "Concat"), dims_of(x)
    if dims is None or joined is None or len(joined.inputs) != 2 or not along_last(joined, len(dims)):
        return False
    negated = made_by(joined.inputs[0], "Neg")
    return negated is not None and _halves_of(joined.inputs[1], negated.inputs[0]) is x


def _halves_of(first: ir.Value | None, second: ir.Value | None) -> ir.Value | None:
    """What two values are the halves of along its last axis; None where they are not."""
    low, high = (value.producer() if value is not None else None for value in (first, second))
    if low is None or high is None or low.inputs[0] is not high.inputs[0]:
        return None
    x, width = low.inputs[0], _width(low.inputs[0])
    if width is None or width % 2:
        return None
    if low is high and is_op(low, "Split"):
        even = [_width(value) for value in low.outputs] == [width // 2, width // 2]
        return x if even and along_last(low, len(dims_of(x) or ())) and [first, second] == list(low.outputs) else None
    return x if _slice(low) == (0, width // 2) and _slice(high) == (width // 2, width) else None


def _slice(node: ir.Node) -> tuple[int, int] | None:
    """Begin and end of a slice of the last axis with steps of one."""
    dims = dims_of(node.inputs[0])
    if not is_op(node, "Slice") or dims is None or not isinstance(dims[-1], int):
        return None
    begin, end, axes, steps = (*(constant_ints(value) for value in node.inputs[1:]), None, None)[:4]
    if begin is None or end is None or steps not in (None, [1]) or len(node.inputs) < 4:
        return None
    if axes is None or len(axes) != 1 or axes[0] % len(dims) != len(dims) - 1:
        return None
    low, high, _ = slice(begin[0], end[0]).indices(dims[-1])
    return low, high


def _repeats(value: ir.Value | None) -> bool:
    """Whether the second half of the last axis is proved to be equal to the first."""
    array = constant_array(value, 1 << 24)
    if array is not None:
        half = array.shape[-1] // 2 if array.ndim else 0
        return bool(half) and array.shape[-1] == 2 * half and numpy.array_equal(array[..., :half], array[..., half:])
    node, dims = (None, None) if value is None else (value.producer(), dims_of(value))
    if node is None or dims is None:
        return False
    if is_op(node, "Concat"):
        return len(node.inputs) == 2 and node.inputs[0] is node.inputs[1] and along_last(node, len(dims))
    if is_op(node, "Mul"):
        return any(_repeats(x) and constant_array(factor, 1) is not None for x, factor in _factors(value))
    if is_op(node, "Gather"):
        rows = dims_of(node.inputs[0]) or ()
        return len(rows) > 1 and not along_last(node, len(rows)) and _repeats(node.inputs[0])
    if is_op(node, "Reshape", "Unsqueeze", "Squeeze"):
        return isinstance(dims[-1], int) and _width(node.inputs[0]) == dims[-1] and _repeats(node.inputs[0])
    return is_op(node, *_ALONG) and _repeats(node.inputs[0])


def _width(value: ir.Value | None) -> int | None:
    dims = dims_of(value)
    return dims[-1] if dims and isinstance(dims[-1], int) else None


def _put(graph: ir.Graph, node: ir.Node, turn: _Turn) -> bool:
    """Replace a node by a RotaryEmbedding where the angles have the shape that it takes."""
    dims, width = dims_of(turn.x), _width(turn.x)
    if dims is None or len(dims) != 4 or width is None or width % 2 or turn.x.dtype not in _FLOATS:
        return False
    if not all(_fits(dims_of(angles), dims) and angles.dtype == turn.x.dtype for angles in (turn.cos, turn.sin)):
        return False
    tables = [_table(graph, node, turn.x, angles) for angles in (turn.cos, turn.sin)]
    result = insert_before(graph, node, "RotaryEmbedding", turn.x, *tables, interleaved=0)
    result.name = node.outputs[0].name
    replace(graph, node, result)
    return True


def _fits(angles: tuple[int | str | None, ...] | None, dims: tuple[int | str | None, ...]) -> bool:
    """Whether angles are those of tokens: equal for all heads, for each token, of half the width or of all."""
    if angles is None or not 2 <= len(angles) <= 4 or not isinstance(dims[-1], int):
        return False
    whole = (1,) * (4 - len(angles)) + angles
    batch = whole[0] == 1 or same_dims(whole[:1], dims[:1])
    return batch and whole[1] == 1 and same_dims(whole[2:3], dims[2:3]) and whole[3] in (dims[-1], dims[-1] // 2)


def _table(graph: ir.Graph, node: ir.Node, x: ir.Value, angles: ir.Value) -> ir.Value:
    """Angles as [batch, tokens, half the width]."""
    add = partial(insert_before, graph, node)
    dims, width, batch = dims_of(angles) or (), _width(x) or 0, (dims_of(x) or (1,))[0]

    def ints(*values: int) -> ir.Value:
        return add_constant(graph, numpy.array(values, dtype=numpy.int64), "angles")

    if _width(angles) == width:
        angles = add("Slice", angles, ints(0), ints(width // 2), ints(len(dims) - 1))
    if len(dims) != 3:
        angles = add("Squeeze", angles, ints(1)) if len(dims) == 4 else add("Unsqueeze", angles, ints(0))
    if batch == 1 or (len(dims) == 4 and dims[0] != 1):
        return angles
    if isinstance(batch, int):
        return add("Expand", angles, ints(batch, 1, 1))
    return add("Expand", angles, add("Concat", add("Shape", x, start=0, end=1), ints(1, 1), axis=0))
