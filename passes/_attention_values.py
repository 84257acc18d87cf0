"""From a softmax on to the product with the values."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from tersor.passes._attention_layout import is_copy, is_view
from tersor.passes._attention_product import Product, product_of
from tersor.passes._attention_scores import number
from tersor.program import Program
from tersor.rewrite_values import argument, arguments, fake, key, positional


@dataclass(frozen=True)
class Reading:
    """The product that reads the probabilities.

    Attributes:
        place: 0 where they are its left operand, 1 where they are its right one.
        views: what leads from the softmax to it.
        zeroed: the condition of a fill with zeros, and where it holds; masked rows are zeros then.
        nodes: all nodes on the way, the product last.
    """

    product: Product
    place: int
    views: tuple[fx.Node, ...]
    zeroed: tuple[fx.Node, bool] | None
    nans: bool
    nodes: tuple[fx.Node, ...]


def reading(program: Program, softmax: fx.Node) -> Reading | str:
    """What reads the probabilities; or why that is no attention."""
    node, nans = softmax, False
    views: list[fx.Node] = []
    nodes = [softmax]
    zeroed: tuple[fx.Node, bool] | None = None
    while True:
        readers = [user for user in node.users if key(user) != "sym_size"]
        if any(user.op == "output" for user in readers):
            return "its result is an output of the model"
        cleaned = _without_nans(program, node, readers)
        if cleaned is not None:
            nodes += cleaned
            node, nans = cleaned[-1], True
            continue
        if len(readers) != 1:
            return f"its result is read by {len(readers)} nodes: {', '.join(user.name for user in readers[:3])}"
        user = readers[0]
        found = product_of(program, user)
        if found is not None:
            nodes.append(user)
            place = int(found.operands[0] is not node)
            if found.added is not None or found.scale != 1 or found.operands[0] is found.operands[1]:
                return f"{user.name} does more than multiply probabilities with values"
            return Reading(found, place, tuple(views), zeroed, nans, tuple(nodes))
        filled = _zero_fill(program, user, node)
        if filled is not None and zeroed is None:
            zeroed = filled
        elif is_view(user) or is_copy(user):
            views.append(user)
        else:
            return f"its result is read by {key(user)}, not by a product with values"
        nodes.append(user)
        node = user


def _zero_fill(program: Program, user: fx.Node, node: fx.Node) -> tuple[fx.Node, bool] | None:
    """(condition, where it keeps) of a fill of the probabilities with zeros."""
    if key(user) == "masked_fill" and positional(user)[0] is node and number(program, positional(user)[2]) == 0:
        return positional(user)[1], False
    if key(user) == "where":
        condition, first, second = positional(user)[:3]
        if first is node and number(program, second) == 0:
            return condition, True
        if second is node and number(program, first) == 0:
            return condition, False
    return None


def _without_nans(program: Program, node: fx.Node, readers: list[fx.Node]) -> list[fx.Node] | None:
    """The nodes that make NaN zero, the last one last."""
    if len(readers) == 1 and key(readers[0]) == "nan_to_num":
        return readers if (arguments(readers[0])["nan"] or 0) == 0 else None
    tests = [test for user in readers if (test := _nan_test(node, user))]
    if len(readers) != 2 or len(tests) != 1:
        return None
    test, fill = tests[0], next(user for user in readers if user is not tests[0][0])
    if key(fill) not in ("where", "masked_fill") or set(test[-1].users) != {fill}:
        return None
    return [*test, fill] if _zero_fill(program, fill, node) == (test[-1], False) else None


def _nan_test(node: fx.Node, user: fx.Node) -> list[fx.Node]:
    """The nodes from a reader on that ask where a result is NaN, perhaps in another type; none where it does not."""
    if key(user) == "ne":
        return [user] if list(positional(user)) == [node, node] else []
    test, value = [user], fake(user)
    if key(user) in ("_to_copy", "to") and value.is_floating_point() and value.itemsize > 1 and len(user.users) == 1:
        test += user.users
    return test if key(test[-1]) == "isnan" else []


def root_of(softmax: fx.Node) -> tuple[fx.Node, fx.Node, int] | str:
    """(node whose result is the probabilities, scores, axis) of a softmax, or of the exponential of a log-softmax."""
    x, dim = argument(softmax, "self"), argument(softmax, "dim")
    if key(softmax) in ("softmax", "_softmax", "_safe_softmax"):
        return softmax, x, dim
    readers = list(softmax.users)
    if len(readers) == 1 and key(readers[0]) == "exp":
        return readers[0], x, dim
    return "a log-softmax whose exponential nobody takes"
