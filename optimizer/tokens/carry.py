"""Carry reduced tokens through a graph: sizes follow, positions are looked up, and what needs all tokens gets them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import fx

from tersor.axes import Axes
from tersor.axes.elementwise import is_elementwise
from tersor.axes.terms import resolve
from tersor.errors import RewriteError
from tersor.program import Program
from tersor.rewrite import annotate, insert_call
from tersor.rewrite_arguments import set_argument
from tersor.rewrite_values import arguments, fake, key, known, tensor
from tersor.tokens.axis import Apart, Run, Tokens
from tersor.tokens.graph import insert
from tersor.tokens.stage import Stage, bring, restore
from tersor.tokens.weighted import weighted_mean

aten = torch.ops.aten

EVENLY = frozenset((
    "clone", "contiguous", "to", "_to_copy", "type_as", "dropout", "masked_fill", "where", "clamp", "pow", "square",
    "gelu", "silu", "mish", "elu", "relu", "relu6", "leaky_relu", "hardswish", "hardsigmoid", "softplus", "rsub",
    "maximum", "minimum", "add", "sub", "mul", "div", "neg", "sigmoid", "tanh", "erf", "exp", "sqrt", "rsqrt", "linear",
    "matmul", "mm", "bmm", "addmm", "baddbmm", "layer_norm", "rms_norm", "softmax", "_softmax", "log_softmax", "glu",
    "reshape", "view", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "mT", "unsqueeze",
    "squeeze", "expand", "movedim", "split", "split_with_sizes", "chunk", "unbind", "getitem", "select", "slice", "cat",
    "stack", "mean", "sum", "amax", "amin", "var", "fake_quantize_per_tensor_affine",
    "quantized_decomposed::quantize_per_tensor", "quantized_decomposed::dequantize_per_tensor",
))  # fmt: skip
"""Operators that do the same to every token, where neither a sum nor a statistic runs over tokens."""

SIZED = ("new_ones", "new_zeros", "new_full", "new_empty")


@dataclass
class Carrier:
    """One walk over a graph in which the token axis becomes shorter and shorter.

    Attributes:
        stages: by node name, for every tensor whose tokens are reduced.
        stream: names of nodes that hold features of tokens; others that have the token axis hold facts on positions.
        crossing: names of nodes in which a sum or a statistic runs over tokens.
        restored: names of nodes before which all tokens were put back.
        strict: raise RewriteError where all tokens are needed again, instead of putting them back.
    """

    program: Program
    axes: Axes
    tokens: Tokens
    stream: frozenset[str]
    stages: dict[str, Stage] = field(default_factory=dict)
    crossing: frozenset[str] = frozenset()
    restored: list[str] = field(default_factory=list)
    rules: dict[str, Callable[[Carrier, fx.Node], None]] = field(default_factory=dict)
    strict: bool = False

    def __post_init__(self) -> None:
        found = [(item.node, item.term) for item in self.axes.contractions]
        found += [(item.node, item.term) for item in self.axes.spans]
        self.crossing = frozenset(node for node, term in found if self.tokens.touches(term))

    def visit(self, node: fx.Node) -> None:
        """Adapt a node to what became of its inputs."""
        reduced = self.reduced(node)
        if not reduced or node.op == "placeholder":
            return
        if node.op == "output":
            for item in reduced:
                self.put_back(node, item)
            return
        try:
            self.rules.get(key(node), RULES.get(key(node), evenly))(self, node)
        except Apart as error:
            if self.strict:
                raise RewriteError(f"{node.name} needs all tokens: {error}") from error
            for item in self.reduced(node):
                self.put_back(node, item)
            self.restored.append(node.name)

    def reduced(self, node: fx.Node) -> list[fx.Node]:
        """Inputs whose tokens are reduced."""
        return [item for item in node.all_input_nodes if item.name in self.stages]

    def run(self, node: fx.Node) -> Run | None:
        """Where a tensor holds tokens."""
        return self.tokens.run(self.axes.values.get(node.name))

    def batched(self, node: fx.Node) -> bool:
        """Whether the first dimension of a tensor is that of the samples."""
        dims = self.axes.values.get(node.name)
        return isinstance(dims, tuple) and len(dims) > 1 and resolve(dims[0]) == resolve(self.tokens.batch)

    def known_as(self, new: fx.Node, old: fx.Node) -> None:
        """A new node has the dimensions of an old one."""
        self.axes.values[new.name] = self.axes.values[old.name]

    def put_back(self, node: fx.Node, item: fx.Node) -> None:
        """Give a node all tokens of one of its inputs."""
        run = self.run(item)
        if run is None:
            raise RewriteError(f"tokens of {item.name} cannot be put back")
        stage = self.stages[item.name]
        made = stage.sides.get(("restored", item.name))
        if made is None or node.op == "output":
            made = restore(self.program, node, stage, item, run, self.batched(item))
            stage.sides["restored", item.name] = made
            self.known_as(made, item)
        node.replace_input_with(item, made)

    def stage_of(self, node: fx.Node) -> Stage:
        """The one stage of a node's inputs; raises Apart where there are several."""
        found = {id(self.stages[item.name]): self.stages[item.name] for item in self.reduced(node)}
        if len(found) > 1:
            raise Apart("it joins sequences that were reduced differently")
        return next(iter(found.values()))

    def join(self, node: fx.Node, stage: Stage, rank: int) -> None:
        """Bring a node's other inputs to the reduced tokens; raises Apart where one is a stream of features itself."""
        others = [item for item in node.all_input_nodes if item.name not in self.stages and tensor(item) is not None]
        held = [(item, run) for item in others if (run := self.run(item)) is not None]
        if any(item.name in self.stream or (stage.padded and self._varies(item)) for item, _ in held):
            raise Apart("it joins reduced tokens with all of them")
        for item, run in held:
            made = bring(self.program, node, stage, item, run, self.batched(item), rank)
            node.replace_input_with(item, made)

    def _varies(self, node: fx.Node) -> bool:
        """Whether a tensor depends on the program's inputs."""
        waiting, seen = [node], {node}
        while waiting:
            current = waiting.pop()
            if current.op == "placeholder":
                return True
            fresh = [item for item in current.all_input_nodes if item not in seen and tensor(item) is not None]
            seen.update(fresh)
            waiting += fresh
        return False

    def settle(self, node: fx.Node, stage: Stage | None) -> None:
        """Recompute a node's shape; it holds reduced tokens where a stage is given."""
        annotate(node, node)
        if stage is not None:
            self.stages[node.name] = stage


def evenly(walk: Carrier, node: fx.Node) -> None:
    """An operator that does the same to every token: the sizes that it states follow."""
    if (key(node) not in EVENLY and not is_elementwise(node)) or node.name in walk.crossing:
        raise Apart(f"{key(node)} mixes tokens")
    stage = walk.stage_of(node)
    for item in walk.reduced(node):
        if isinstance(walk.axes.values[item.name], tuple):
            walk.run(item)
    runs = _result_runs(walk, node)
    value = node.meta["val"]
    walk.join(node, stage, fake(node).dim() if tensor(node) is not None else 0)
    if tensor(node) is not None and runs[0] is not None:
        _resize(walk, node, stage, runs[0])
    walk.settle(node, stage)
    if isinstance(value, torch.Tensor) and runs[0] is not None and not runs[0].others:
        wanted, got = stage.count(), known(fake(node).shape[runs[0].dim])
        if wanted is not None and got is not None and runs[0].length(wanted) != got:
            raise RewriteError(f"{node.name} has {got} tokens where {runs[0].length(wanted)} are left")


def _result_runs(walk: Carrier, node: fx.Node) -> list[Run | None]:
    dims = walk.axes.values.get(node.name)
    many = dims if isinstance(dims, list) else [dims]
    runs = [walk.tokens.run(item) for item in many]
    if not runs or any(run is None for run in runs):
        raise Apart("its result has no tokens")
    return runs


def _resize(walk: Carrier, node: fx.Node, stage: Stage, run: Run) -> None:
    """State the new number of tokens where the old one was stated."""
    given = arguments(node)
    name = next((item for item in ("size", "shape") if isinstance(given.get(item), list | tuple)), "")
    if not name or key(node) not in ("reshape", "view", "_unsafe_view", "expand"):
        return
    sizes = list(given[name])
    if sizes[run.dim] == -1:
        return
    if run.others and -1 in sizes:
        raise RewriteError(f"{node.name} states a size of samples times tokens that cannot be computed")
    sizes[run.dim] = -1 if run.others else _length(walk, node, stage, run)
    set_argument(node, name, sizes)


def _length(walk: Carrier, node: fx.Node, stage: Stage, run: Run) -> Any:
    count, away = stage.counted(node), run.length(0)
    if isinstance(count, int):
        return count + away
    return insert_call(node, operator.add, [count, away]) if away else count


def size_of(walk: Carrier, node: fx.Node) -> None:
    """The number of tokens is asked for: it stays what it was; sizes that must follow are stated anew elsewhere."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    run, stage = walk.run(source), walk.stages[source.name]
    if run is not None and int(node.args[1]) % fake(source).dim() == run.dim and run.whole:  # type: ignore[arg-type]
        node.args = (stage.full, 1)
    walk.settle(node, None)


def filled(walk: Carrier, node: fx.Node) -> None:
    """Only dtype and device of the argument count."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    node.replace_input_with(source, walk.stages[source.name].full)
    walk.settle(node, None)


def ranged(walk: Carrier, node: fx.Node) -> None:
    """A scale found from all numbers at once is found from those of the tokens that are left."""
    walk.settle(node, None)


def select(walk: Carrier, node: fx.Node) -> None:
    """One position: a protected token is still where it was."""
    source, dim, index = node.args[0], int(node.args[1]), node.args[2]  # type: ignore[arg-type]
    assert isinstance(source, fx.Node)
    run = walk.run(source)
    if run is None or dim % fake(source).dim() != run.dim:
        evenly(walk, node)
        return
    full = run.length(walk.tokens.total)
    back = index - full if isinstance(index, int) and isinstance(full, int) and index >= 0 else index
    if isinstance(back, int) and -walk.tokens.last <= back < 0 and not run.after:
        set_argument(node, "index", back)
        walk.settle(node, None)
        return
    place = index - run.before + run.start if isinstance(index, int) and index >= 0 else None
    if place is None or not -run.before <= place - run.start or place >= walk.tokens.first:
        raise Apart("it reads a token that may be gone")
    walk.settle(node, None)


def slice_(walk: Carrier, node: fx.Node) -> None:
    """A stretch of tokens: the protected ones, or all behind some of them."""
    given, source = arguments(node), node.args[0]
    assert isinstance(source, fx.Node)
    run = walk.run(source)
    if run is None or int(given["dim"]) % fake(source).dim() != run.dim:
        evenly(walk, node)
        return
    start, end = given["start"] or 0, given["end"]
    full = run.length(walk.tokens.total)
    if given["step"] != 1 or not isinstance(start, int) or start < 0 or run.others:
        raise Apart("it reads some of the tokens")
    limit = walk.tokens.first + run.before - run.start
    if isinstance(end, int) and 0 <= end <= limit:
        walk.settle(node, None)
        return
    if start > limit or not _to_the_end(end, full):
        raise Apart("it reads some of the tokens")
    set_argument(node, "end", torch.iinfo(torch.int64).max)
    _result_runs(walk, node)
    walk.settle(node, walk.stage_of(node))


def _to_the_end(end: Any, full: Any) -> bool:
    if end is None:
        return True
    if isinstance(end, fx.Node):
        value = end.meta.get("val")
        return isinstance(value, torch.SymInt) and value.node.expr == full
    return end >= full if isinstance(full, int) else end > 1 << 40


def joined(walk: Carrier, node: fx.Node) -> None:
    """A concatenation: of features, or of tokens with others in front or behind."""
    run = _result_runs(walk, node)[0]
    dim = int(arguments(node)["dim"]) % fake(node).dim()
    others = [item for item in node.all_input_nodes if item.name not in walk.stages]
    if run is not None and dim == run.dim and any(walk.tokens.holds(walk.axes, item) for item in others):
        raise Apart("it joins tokens with tokens")
    evenly(walk, node)


def mean(walk: Carrier, node: fx.Node) -> None:
    """An average over tokens counts each as often as it stands for tokens of the original."""
    given, source = arguments(node), node.args[0]
    assert isinstance(source, fx.Node)
    run = walk.run(source)
    dims = given.get("dim")
    rank = fake(source).dim()
    over = [item % rank for item in ([dims] if isinstance(dims, int) else dims or range(rank))]
    if run is None or run.dim not in over:
        evenly(walk, node)
        return
    stage = walk.stage_of(node)
    if len(over) > 1 or run.others or stage.padded or not walk.batched(source):
        raise Apart("it averages over more than tokens")
    if stage.size is not None:
        keepdim = bool(given["keepdim"])
        made = insert(walk.program, node, partial(weighted_mean, run=run, keepdim=keepdim), source, stage.size)
        walk.known_as(made, node)
        node.replace_all_uses_with(made)
        return
    walk.settle(node, None)


RULES: dict[str, Callable[[Carrier, fx.Node], None]] = {
    "sym_size": size_of,
    "select": select,
    "slice": slice_,
    "cat": joined,
    "mean": mean,
    "quantized_decomposed::choose_qparams": ranged,
    **dict.fromkeys(SIZED, filled),
}
