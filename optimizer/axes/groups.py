"""Groups: the atomic axes of a program's weights, what each is for, and whether it may lose indices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tersor.axes.analysis import Axes
from tersor.axes.terms import Axis, Product, Term, leaves, resolve
from tersor.program import Program
from tersor.rewrite_values import key

Kind: TypeAlias = Literal["channels", "hidden", "heads", "head-dim", "width", "experts", "tokens"]


@dataclass(frozen=True)
class Member:
    """A dimension of a weight that a group cuts."""

    weight: str
    dim: int
    term: Term


@dataclass(frozen=True)
class Group:
    """One atomic axis: indices that can only be removed everywhere at once.

    Attributes:
        name: the first layer that produces it.
        axis: the axis.
        kind: what it is for.
        members: dimensions of weights that mention it.
        producers: nodes that make it, in order.
        consumers: nodes that sum over it.
        spans: nodes whose formula runs over it as a whole, so that removal changes what remains.
        pin: why nothing may be removed; empty where it may.
    """

    name: str
    axis: Axis
    kind: Kind
    members: tuple[Member, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    spans: tuple[str, ...]
    pin: str

    @property
    def size(self) -> int:
        """How many indices it has."""
        return int(self.axis.size)

    @property
    def least(self) -> int:
        """How many indices must stay."""
        return self.axis.least

    @property
    def free(self) -> bool:
        """Whether indices may be removed."""
        return not self.pin


def groups(program: Program, axes: Axes) -> list[Group]:
    """The groups of a program in the order in which its nodes make them."""
    members: dict[Axis, dict[tuple[str, int], Member]] = defaultdict(dict)
    for name, dims in axes.weights.items():
        for dim, term in enumerate(dims):
            for axis in leaves(term):
                members[axis].setdefault((name, dim), Member(name, dim, term))
    _pin_repeats(axes)
    out, into, roles = _roles(axes)
    consumers, spans = (
        _uses([(item.node, item.term) for item in axes.contractions]),
        _uses([(item.node, item.term) for item in axes.spans]),
    )
    operators = {node.name: key(node) for node in program.nodes}
    found = []
    for axis, mentioned in members.items():
        if not isinstance(axis.size, int):
            continue
        found.append(
            Group(
                name=_name(mentioned),
                axis=axis,
                kind=_kind(
                    roles[axis], out[axis], bool(spans[axis]), [operators[n] for n in (*out[axis], *into[axis])]
                ),
                members=tuple(mentioned.values()),
                producers=tuple(out[axis]),
                consumers=tuple(consumers[axis]),
                spans=tuple(spans[axis]),
                pin=axis.pin or _all_needed(axis),
            )
        )
    return found


def _all_needed(axis: Axis) -> str:
    return f"at least {axis.least} must stay" if isinstance(axis.size, int) and 1 < axis.size <= axis.least else ""


def _uses(places: list[tuple[str, Term]]) -> dict[Axis, dict[str, None]]:
    found: dict[Axis, dict[str, None]] = defaultdict(dict)
    for node, term in places:
        for axis in leaves(term):
            found[axis][node] = None
    return found


def _roles(axes: Axes) -> tuple[dict[Axis, dict[str, None]], dict[Axis, dict[str, None]], dict[Axis, set[str]]]:
    out = _uses([(role.node, role.term) for role in axes.roles if role.kind == "out"])
    into = _uses([(role.node, role.term) for role in axes.roles if role.kind == "in"])
    roles: dict[Axis, set[str]] = defaultdict(set)
    for role in axes.roles:
        for axis in leaves(role.term):
            roles[axis].add(role.kind)
    return out, into, roles


def _kind(roles: set[str], producers: dict[str, None], spanned: bool, operators: list[str]) -> Kind:
    for role, kind in (("head", "heads"), ("expert", "experts")):
        if role in roles:
            return kind  # type: ignore[return-value]
    if "head-dim" in roles:
        return "head-dim"
    if spanned and len(producers) > 1:
        return "width"
    if "token" in roles and not producers:
        return "tokens"
    return "channels" if any(name.startswith("conv") for name in operators) else "hidden"


def _name(members: dict[tuple[str, int], Member]) -> str:
    weight = next(iter(members))[0]
    return weight.rpartition(".")[0] or weight


def _pin_repeats(axes: Axes) -> None:
    """An axis that occurs twice inside one product would have to lose the same index in both places at once."""
    for value in axes.values.values():
        for term in _terms(value):
            for axis in _repeated(term):
                axis.pin = axis.pin or "it occurs twice in one dimension"


def _terms(value: object) -> Iterator[Term]:
    if isinstance(value, list):
        for item in value:
            yield from _terms(item)
    elif isinstance(value, tuple):
        yield from value


def _repeated(term: Term) -> Iterator[Axis]:
    term = resolve(term)
    if isinstance(term, Axis):
        return
    if isinstance(term, Product):
        seen: set[Axis] = set()
        for factor in term.factors:
            own = set(leaves(factor))
            yield from own & seen
            seen |= own
            yield from _repeated(factor)
    else:
        for part in term.parts:
            yield from _repeated(part)
