"""The parts of a rotary embedding in a graph: pairs of channels, of halves or of neighbours, and their angles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy
import onnx_ir as ir

from tersor.export.dims import inferred_dims
from tersor.export.edit import along_last, constant_array, constant_ints, is_op, made_by, same_dims

_ALONG = ("Cos", "Sin", "Cast", "Identity", "Neg")
"""Operators that keep equal angles equal, whatever else they do."""


def factors(value: ir.Value | None) -> Iterator[tuple[ir.Value, ir.Value]]:
    """A product's two factors, in both orders."""
    product = made_by(value, "Mul")
    if product is not None:
        a, b = product.inputs
        if a is not None and b is not None:
            yield a, b
            yield b, a


def is_rotated_in_halves(value: ir.Value, x: ir.Value) -> bool:
    """Whether a value is the second half of ``x``, negated, and then the first."""
    joined, dims = made_by(value, "Concat"), inferred_dims(x)
    if dims is None or joined is None or len(joined.inputs) != 2 or not along_last(joined, len(dims)):
        return False
    negated = made_by(joined.inputs[0], "Neg")
    return negated is not None and halves_of(joined.inputs[1], negated.inputs[0]) is x


def is_rotated_in_pairs(value: ir.Value, x: ir.Value) -> bool:
    """Whether a value has, of each two neighbours of ``x``, the second negated and then the first."""
    parts = stacked(value)
    if parts is None or not same_dims(inferred_dims(value), inferred_dims(x)):
        return False
    odd, even = (made_by(part, "Unsqueeze") for part in parts)
    negated = made_by(odd.inputs[0], "Neg") if odd is not None else None
    return even is not None and negated is not None and neighbours_of(even.inputs[0], negated.inputs[0]) is x


def stacked(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """The two that are stacked along a new last axis, [..., n, 1], where that is then joined to [..., 2 * n]."""
    reshaped = made_by(value, "Reshape")
    joined = made_by(reshaped.inputs[0], "Concat") if reshaped is not None else None
    if joined is None or len(joined.inputs) != 2 or not _side_by_side(joined.outputs[0], value):
        return None
    first, second = joined.inputs
    last = along_last(joined, len(inferred_dims(joined.outputs[0]) or ()))
    return (first, second) if last and first is not None and second is not None else None


def _side_by_side(pairs: ir.Value | None, flat: ir.Value | None) -> bool:
    """Whether the last two axes of one, [..., n, 2], make the last of the other, [..., 2 * n]."""
    dims = inferred_dims(pairs) or ()
    return len(dims) > 1 and dims[-1] == 2 and isinstance(dims[-2], int) and width_of(flat) == 2 * dims[-2]


def _from_one(first: ir.Value | None, second: ir.Value | None) -> tuple[ir.Node, ir.Node, ir.Value, int] | None:
    """The two nodes that take values from one of an even width, that one, and its width."""
    nodes = [value.producer() for value in (first, second) if value is not None]
    sources = [node.inputs[0] for node in nodes if node is not None and node.inputs]
    if len(sources) != 2 or sources[0] is None or sources[0] is not sources[1]:
        return None
    width = width_of(sources[0])
    low, high = nodes
    if low is None or high is None or width is None or width % 2:
        return None
    return low, high, sources[0], width


def neighbours_of(first: ir.Value | None, second: ir.Value | None) -> ir.Value | None:
    """What two values are every second element of, along its last axis; None where they are not."""
    found = _from_one(first, second)
    if found is None:
        return None
    even, odd, source, width = found
    if (_slice(even), _slice(odd)) == ((0, width, 2), (1, width, 2)):
        return source
    split = made_by(source, "Reshape")
    x = split.inputs[0] if split is not None else None
    if not _side_by_side(source, x) or not same_dims((inferred_dims(source) or ())[:-2], (inferred_dims(x) or ())[:-1]):
        return None
    return x if (_only(even), _only(odd)) == (0, 1) else None


def _only(node: ir.Node) -> int | None:
    """Which one element of the last axis a node takes."""
    dims = inferred_dims(node.inputs[0])
    if dims is None:
        return None
    if is_op(node, "Gather"):
        index = constant_array(node.inputs[1], 1)
        return int(index) if index is not None and index.ndim == 0 and along_last(node, len(dims)) else None
    found = _slice(node)
    return found[0] if found is not None and found[1:] == (found[0] + 1, 1) else None


def halves_of(first: ir.Value | None, second: ir.Value | None) -> ir.Value | None:
    """What two values are the halves of along its last axis; None where they are not."""
    found = _from_one(first, second)
    if found is None:
        return None
    low, high, x, width = found
    if low is high and is_op(low, "Split"):
        even = [width_of(value) for value in low.outputs] == [width // 2, width // 2]
        whole = [first, second] == list(low.outputs) and along_last(low, len(inferred_dims(x) or ()))
        return x if even and whole else None
    return x if (_slice(low), _slice(high)) == ((0, width // 2, 1), (width // 2, width, 1)) else None


def _slice(node: ir.Node) -> tuple[int, int, int] | None:
    """Begin, end and step of a slice of the last axis."""
    dims = inferred_dims(node.inputs[0])
    if not is_op(node, "Slice") or dims is None or not isinstance(dims[-1], int):
        return None
    begin, end, axes, steps = (*(constant_ints(value) for value in node.inputs[1:]), None, None)[:4]
    if begin is None or end is None or len(node.inputs) < 4 or (len(node.inputs) > 4 and steps is None):
        return None
    if axes is None or len(axes) != 1 or axes[0] % len(dims) != len(dims) - 1:
        return None
    return slice(begin[0], end[0], steps[0] if steps else 1).indices(dims[-1])


def repeats(value: ir.Value | None, interleaved: bool) -> bool:
    """Whether the last axis is proved to hold each pair's angle twice: in both halves, or in neighbours."""
    array = constant_array(value, 1 << 24)
    if array is not None:
        half = array.shape[-1] // 2 if array.ndim else 0
        low, high = (array[..., ::2], array[..., 1::2]) if interleaved else (array[..., :half], array[..., half:])
        return bool(half) and numpy.array_equal(low, high)
    node, dims = (None, None) if value is None else (value.producer(), inferred_dims(value))
    if node is None or dims is None:
        return False
    if is_op(node, "Concat"):
        twice = len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
        return twice and not interleaved and along_last(node, len(dims))
    if is_op(node, "Mul"):
        return any(repeats(x, interleaved) and constant_array(factor, 1) is not None for x, factor in factors(value))
    if is_op(node, "Gather"):
        rows = inferred_dims(node.inputs[0]) or ()
        return len(rows) > 1 and not along_last(node, len(rows)) and repeats(node.inputs[0], interleaved)
    if interleaved and is_op(node, "Reshape") and _joins_copies(node):
        return True
    if is_op(node, "Reshape", "Unsqueeze", "Squeeze"):
        kept = isinstance(dims[-1], int) and width_of(node.inputs[0]) == dims[-1]
        return kept and repeats(node.inputs[0], interleaved)
    return is_op(node, *_ALONG) and repeats(node.inputs[0], interleaved)


def _joins_copies(reshape: ir.Node) -> bool:
    """Whether two copies of every element, [..., n, 2], are laid side by side, [..., 2 * n]."""
    expanded = made_by(reshape.inputs[0], "Expand")
    if expanded is not None:
        return _side_by_side(reshape.inputs[0], reshape.outputs[0]) and width_of(expanded.inputs[0]) == 1
    both = stacked(reshape.outputs[0])
    return both is not None and both[0] is both[1]


def width_of(value: ir.Value | None) -> int | None:
    """Of the last axis; None where it is not known."""
    dims = inferred_dims(value)
    return dims[-1] if dims and isinstance(dims[-1], int) else None
