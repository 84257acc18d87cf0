"""Rewriting of a program by rules: find a pattern, check it, replace it, say why not."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode

from tersor.context import Context
from tersor.errors import RewriteError
from tersor.program import Program
from tersor.rewrite_pattern import matches, trace
from tersor.rewrite_values import ASSERTIONS, clashing, key, tensor

_PROVENANCE = ("nn_module_stack", "custom", "stack_trace")
_ROUNDS = 50


@dataclass(frozen=True)
class Match:
    """A place where a rule may apply, and the means to build what replaces it.

    Attributes:
        program: the program under edit.
        root: the node that would be replaced.
        bound: what each wildcard of the pattern stands for: a node, a literal or a list.
        nodes: the matched operator nodes, the root last.
    """

    program: Program
    root: fx.Node
    bound: dict[str, Any] = field(default_factory=dict)
    nodes: tuple[fx.Node, ...] = ()

    def __getitem__(self, name: str) -> Any:
        return self.bound[name]

    @property
    def args(self) -> tuple[Any, ...]:
        """The root's positional arguments as they stand."""
        return self.root.args

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Insert a call before the root, with the root's provenance and its fake value."""
        return insert_call(self.root, target, args, kwargs)

    def weight(self, argument: Any) -> torch.Tensor | None:
        """The tensor of a constant argument."""
        return self.program.weight(argument)

    def new_weight(self, name: str, value: torch.Tensor) -> fx.Node:
        """Store a new constant and insert the node that reads it."""
        return insert_weight(self.program, self.root, name, value)


Plan = Callable[[], fx.Node] | str | None
"""What a node rule answers: how to build the replacement, why not, or None where it has nothing to say."""


@dataclass(frozen=True)
class Rule:
    """``pattern`` is replaced by ``replacement`` where ``check`` has no objection.

    Attributes:
        name: what is done, for the report.
        pattern: a function over torch.ops.aten calls; parameters are wildcards, a repeated one must bind equal things.
        replacement: called with the wildcards it names; a parameter ``match`` gets the `Match`, and then the wildcards
            are plain nodes, otherwise operators called on them are inserted into the graph.
        check: returns a refusal, or None; an empty refusal is not reported.
    """

    name: str
    pattern: Callable[..., Any]
    replacement: Callable[..., Any]
    check: Callable[[Match], str | None] | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The root operators it can match."""
        return (trace(self.pattern).key,)

    def plan(self, site: Match) -> Plan:
        """The replacement for the first match that passes the check, or the first refusal."""
        pattern = trace(self.pattern)
        refusal = None
        for bound in matches(pattern, site.root, site.program):
            named = {name: bound.get(node) for name, node in pattern.wildcards.items()}
            nodes = tuple(bound[call] for call in pattern.calls if call in bound)
            match = Match(site.program, site.root, named, (*nodes, site.root))
            reason = self.check(match) if self.check else None
            if reason is None:
                return partial(_build, self.replacement, match)
            refusal = refusal or reason
        return refusal or None


@dataclass(frozen=True)
class NodeRule:
    """A rule about single nodes, for what no fixed pattern can say (chains, axes, sizes).

    Attributes:
        name: what is done, for the report.
        keys: operator names it is asked about.
        plan: see `Plan`.
    """

    name: str
    keys: tuple[str, ...]
    plan: Callable[[Match], Plan]


def node_rule(*keys: str) -> Callable[[Callable[[Match], Plan]], NodeRule]:
    """Make a `NodeRule` of a function, named after it."""
    return lambda plan: NodeRule(plan.__name__.strip("_").replace("_", " "), keys, plan)


AnyRule = Rule | NodeRule


def rewrite(program: Program, context: Context, rules: Sequence[AnyRule]) -> int:
    """Apply rules until none applies; returns the number of edits.

    Rules earlier in the sequence are tried first at each node. One round visits every node once, in execution order,
    so a chain collapses in one round. Raises RewriteError where rules undo each other.
    """
    table: dict[str, list[AnyRule]] = {}
    for rule in rules:
        for name in rule.keys:
            table.setdefault(name, []).append(rule)
    declined: set[tuple[str, str]] = set()
    edits = 0
    for _ in range(_ROUNDS):
        count = _round(program, context, table, declined)
        edits += count
        erase_unused(program)
        if not count:
            return edits
    raise RewriteError(f"{len(rules)} rules reach no fixed point in {_ROUNDS} rounds", "two of them undo each other")


def _round(program: Program, context: Context, table: dict[str, list[AnyRule]], declined: set[tuple[str, str]]) -> int:
    edits = 0
    for node in list(program.graph.nodes):
        if node._erased:
            continue
        for rule in table.get(key(node), ()):
            plan = rule.plan(Match(program, node, nodes=(node,)))
            if plan is None or (node.name, rule.name) in declined:
                continue
            if isinstance(plan, str) or not context.take(node, rule.name):
                declined.add((node.name, rule.name))
                if isinstance(plan, str):
                    context.skip(node, plan)
                continue
            replace(program, node, plan())
            edits += 1
            break
    return edits


def _build(replacement: Callable[..., Any], match: Match) -> fx.Node:
    names = list(inspect.signature(replacement).parameters)
    if "match" in names:
        made = replacement(**{name: match if name == "match" else match[name] for name in names})
        assert isinstance(made, fx.Node)
        return made
    tracer = fx.proxy.GraphAppendingTracer(match.root.graph)
    wrapped = {n: fx.Proxy(match[n], tracer) if isinstance(match[n], fx.Node) else match[n] for n in names}
    before = match.root.prev
    with match.root.graph.inserting_before(match.root):
        result = replacement(**wrapped)
    node = before.next
    while node is not match.root:
        annotate(node, match.root)
        node = node.next
    made = result.node
    assert isinstance(made, fx.Node)
    return made


def replace(program: Program, old: fx.Node, new: fx.Node) -> None:
    """Let ``new`` stand for ``old`` everywhere; raises RewriteError where shape or dtype would change."""
    if new is old:
        return
    before, after = tensor(old), tensor(new)
    if before is not None and (after is None or before.dtype != after.dtype or clashing(before.shape, after.shape)):
        raise RewriteError(f"{old.name} is {_describe(before)}, its replacement {new.name} is {_describe(after)}")
    if is_returned(old) and (new.op != "call_function" or is_returned(new)):
        new = insert_call(old, torch.ops.aten.clone.default, [new])
    old.replace_all_uses_with(new)
    erase_upward(old)
    program.changed()


def is_returned(node: fx.Node) -> bool:
    """Whether a node is an output; outputs are nodes of their own, never inputs, weights or each other."""
    return any(user.op == "output" for user in node.users)


def _describe(found: torch.Tensor | None) -> str:
    return "no tensor" if found is None else f"{found.dtype} of shape {list(found.shape)}"


def erase_upward(node: fx.Node) -> None:
    """Erase a node without users, and each input that it leaves without users."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current._erased or current.users or current.op in ("placeholder", "output"):
            continue
        inputs = current.all_input_nodes
        current.graph.erase_node(current)
        waiting.extend(inputs)


def erase_unused(program: Program) -> int:
    """Erase all nodes whose results nobody reads, checks excepted; returns how many."""
    before = len(program.graph.nodes)
    for node in reversed(list(program.graph.nodes)):
        if not node._erased and key(node) not in ASSERTIONS and not is_effect(node):
            erase_upward(node)
    return before - len(program.graph.nodes)


def is_effect(node: fx.Node) -> bool:
    """Whether a call writes into something."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def insert_call(
    before: fx.Node,
    target: Any,
    args: Sequence[Any],
    kwargs: dict[str, Any] | None = None,
    like: fx.Node | None = None,
) -> fx.Node:
    """Insert a call before a node, with the provenance of ``like`` (default: that node) and its fake value."""
    with before.graph.inserting_before(before):
        node = before.graph.call_function(target, tuple(args), kwargs or {})
    annotate(node, like or before)
    return node


def insert_weight(program: Program, before: fx.Node, name: str, value: torch.Tensor) -> fx.Node:
    """Store a constant under a free name and insert the ``get_attr`` node that reads it."""
    with before.graph.inserting_before(before):
        node = before.graph.get_attr(program.add_weight(name, value))
    mode = fake_mode(before)
    node.meta["val"] = mode.from_tensor(value.detach(), static_shapes=True) if mode else value.to("meta")
    return node


def annotate(node: fx.Node, like: fx.Node) -> None:
    """Give a new call the provenance of ``like`` and compute its fake value, symbolic sizes included."""
    for name in _PROVENANCE:
        if name in like.meta:
            node.meta.setdefault(name, like.meta[name])
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
    mode = fake_mode(like) or fake_mode(node)
    try:
        with torch.no_grad():
            if mode is None:
                node.meta["val"] = node.target(*args, **kwargs)  # type: ignore[operator]
            else:
                # Export's own dispatch: some C++ kernels would otherwise fix symbolic sizes at their hints.
                with mode, enable_python_dispatcher():
                    node.meta["val"] = node.target(*args, **kwargs)  # type: ignore[operator]
    except Exception as error:
        raise RewriteError(f"new node {node.format_node()} does not fit its inputs: {error}") from error


def fake_mode(node: fx.Node) -> FakeTensorMode | None:
    """The mode that made the fake values at a node or at one of its inputs."""
    for candidate in _tensors(node, *node.all_input_nodes):
        mode = getattr(candidate, "fake_mode", None)
        if mode is not None:
            return mode
    return None


def _tensors(*nodes: fx.Node) -> Iterable[Any]:
    for node in nodes:
        found = node.meta.get("val")
        yield from found if isinstance(found, tuple | list) else (found,)
