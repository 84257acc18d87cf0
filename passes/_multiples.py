"""In which steps a group gives up indices, so that what stays fills the blocks that the target's kernels work on."""

from __future__ import annotations

from math import gcd

from tersor.axes import Axes, Group
from tersor.axes.terms import Axis, Product, Term, children, leaves, resolve, size
from tersor.convolution import EVERY, window
from tersor.program import Program
from tersor.rewrite_values import arguments, key
from tersor.target import Target


def preferred(group: Group, target: Target, inside: frozenset[Axis] = frozenset()) -> int:
    """The step for one group.

    A kernel pads what it is given to the target's multiple, so in between there is nothing to gain. A group that is too
    small for two such steps takes the largest power of two that leaves it two.

    Args:
        inside: channels inside the groups of a grouped convolution, see `inside_groups`. They stay in whole blocks or
            as they are: ONNX Runtime and OpenVINO have only slow kernels for anything else.
    """
    if group.kind in ("heads", "experts"):
        return 1
    if group.axis in inside:
        return target.multiple
    step = target.multiple // gcd(target.multiple, _beside(group))
    while step > 1 and group.size < 2 * step:
        step //= 2
    return step


def inside_groups(program: Program, axes: Axes) -> frozenset[Axis]:
    """Axes of the channels that each group of a grouped convolution sums over and makes; a depthwise one has none."""
    found: set[Axis] = set()
    for node in program.nodes:
        if node.op != "call_function" or key(node) not in EVERY:
            continue
        shape, weight = window(node), arguments(node).get("weight")
        dims = axes.weights.get(str(getattr(weight, "target", "")))
        if shape is not None and shape.groups > 1 and dims is not None:
            found.update(leaves(dims[1]))
            found.update(_behind_first(dims[0]))
    return frozenset(found)


def _behind_first(term: Term) -> list[Axis]:
    """The axes of a product but those of its slowest factor, which counts the groups."""
    term = resolve(term)
    return [axis for factor in term.factors[1:] for axis in leaves(factor)] if isinstance(term, Product) else []


def _beside(group: Group) -> int:
    """How many channels each index of a group stands for, at least, in the weights that it cuts."""
    found = 0
    for member in group.members:
        found = gcd(found, _others(member.term, group.axis))
    return max(found, 1)


def _others(term: Term, axis: Axis) -> int:
    """The product of the other sizes beside an axis in a dimension; 0 where it is not in it."""
    term = resolve(term)
    if isinstance(term, Axis):
        return int(term is axis)
    inner = [_others(child, axis) for child in children(term)]
    if not isinstance(term, Product):
        return gcd(*inner) if inner else 0
    for place, own in enumerate(inner):
        if own:
            rest = [size(child) for at, child in enumerate(term.factors) if at != place]
            return own * _whole(rest)
    return 0


def _whole(sizes: list[object]) -> int:
    product = 1
    for item in sizes:
        product *= item if isinstance(item, int) else 1
    return product
