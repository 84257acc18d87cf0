"""Where ONNX Runtime changes between planes of an image and blocks of its channels, in which its convolutions work.

The rules are those of its NCHWc transformer (MLAS): a convolution takes blocks where its channels are multiples of
four, what works on single elements keeps them, and everything else wants planes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import fx

from tersor.convolution import is_transposed
from tersor.cost.fusion import CONVOLUTIONS, Reader, kept_run
from tersor.cost.shapes import shape_of, stored_elements
from tersor.rewrite_values import arguments, key

_ALIGNED, _BLOCK = 4, 16
_JOINED = ("add", "sub")


def conversions(groups: Sequence[list[fx.Node]], reader: Reader) -> Iterator[tuple[int, fx.Node]]:
    """Before which kernel which value is converted."""
    blocked: dict[fx.Node, bool] = {}
    made: set[tuple[fx.Node, bool]] = set()
    for place, members in enumerate(groups):
        main = next((node for node in members if reader.kind(node) != "elementwise"), members[0])
        outside = [owner for owner in _read(members, reader) if owner in blocked]
        wanted = _is_blocked(main, members, outside, blocked, reader)
        for owner in outside:
            if blocked[owner] != wanted and (owner, wanted) not in made and not _turns(main, owner, reader):
                made.add((owner, wanted))
                yield place, owner
        blocked.update(dict.fromkeys(members, wanted))


def _read(members: Sequence[fx.Node], reader: Reader) -> list[fx.Node]:
    """What a kernel reads and another one made."""
    inside = set(members)
    found = dict.fromkeys(owner for node in members for owner in reader.producers(node))
    return [owner for owner in found if owner not in inside]


def _is_blocked(
    main: fx.Node, members: Sequence[fx.Node], outside: Sequence[fx.Node], blocked: dict[fx.Node, bool], reader: Reader
) -> bool:
    sort = reader.kind(main)
    if sort in CONVOLUTIONS:
        return _takes_blocks(main)
    every = bool(outside) and all(blocked[owner] for owner in outside)
    if sort in ("pool", "batch_norm"):
        return every
    if sort == "elementwise":
        shapes = {shape_of(owner) for owner in outside}
        return every and len(shapes) == 1 and (len(outside) == 1 or key(main) in _JOINED)
    if sort == "reduction":
        return every and key(main) == "mean" and len(shape_of(main.all_input_nodes[0])) == 4
    return (
        every
        and key(main) == "cat"
        and all(shape_of(owner)[1:2] and shape_of(owner)[1] % _BLOCK == 0 for owner in outside)
    )


def _takes_blocks(node: fx.Node) -> bool:
    given = arguments(node)
    weight, groups = shape_of(given["weight"]), int(given["groups"])
    if len(weight) != 4 or is_transposed(node) or node.meta["val"].dtype.itemsize != 4:
        return False
    if groups == 1:
        return weight[1] % _ALIGNED == 0 or weight[1] < _BLOCK
    if weight[1] == 1 and weight[0] == groups:
        return groups % _ALIGNED == 0
    return weight[1] % _BLOCK == 0 and (weight[0] // groups) % _BLOCK == 0


def _turns(main: fx.Node, owner: fx.Node, reader: Reader) -> bool:
    """Whether one of the two puts channels last or first: the conversion then does that on its way."""
    return any(
        reader.kind(node) == "permute" and len(shape_of(node)) == 4 and kept_run(node) == 1 for node in (main, owner)
    )


def converted_bytes(owner: fx.Node) -> float:
    """Bytes that a conversion reads and writes."""
    return 8.0 * stored_elements(owner.meta.get("val"))
