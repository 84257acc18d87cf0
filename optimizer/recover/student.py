"""A program as something that learns: its weights as leaves of autograd, its inner values as further results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tersor.interface import Flat
from tersor.program import Program
from tersor.recover.correspondence import Correspondence
from tersor.rewrite_values import arguments, is_floating, key, tensor
from tersor.sparse.pattern import support

_STATISTICS = ("running_mean", "running_var")


def observed(program: Program, names: Sequence[str]) -> fx.GraphModule:
    """The program as a module that returns its outputs, and the values of the named nodes."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    outputs = graph.graph_copy(program.graph, copies)
    by_name = {node.name: copy for node, copy in copies.items()}
    graph.output((outputs, tuple(by_name[name] for name in names)))
    weights = {name: v.detach() if isinstance(v, Tensor) else v for name, v in program.weights.items()}
    return fx.GraphModule(weights, graph)


@dataclass
class Student:
    """A program under training; the program itself and its tensors are never written into.

    Attributes:
        program: what it started from.
        module: computes outputs and features.
        leaves: what is trained, in single precision or better.
        owners: the names of the weights that each leaf stands for, and their dtype; tied weights stay tied.
        kept: which weights of each leaf may differ from zero; None for a leaf that nobody pruned.
    """

    program: Program
    module: fx.GraphModule
    leaves: list[Tensor]
    owners: list[tuple[tuple[str, ...], torch.dtype]]
    kept: list[Tensor | None]

    @classmethod
    def of(cls, program: Program, features: Sequence[str] = ()) -> Student:
        """All floating weights become trainable, save single numbers, statistics and what is not finite."""
        groups: dict[object, list[str]] = {}
        for name in trainable(program):
            value = program.weights[name]
            groups.setdefault((value.data_ptr(), tuple(value.shape), value.stride()), []).append(name)
        owners = [(tuple(names), program.weights[names[0]].dtype) for names in groups.values()]
        leaves = [program.weights[names[0]].detach() for names, _ in owners]
        leaves = [v.clone() if v.dtype == torch.float64 else v.to(torch.float32, copy=True) for v in leaves]
        kept = [support(leaf) for leaf in leaves]
        return cls(program, observed(program, features), [leaf.requires_grad_() for leaf in leaves], owners, kept)

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Flat, Flat]:
        """Outputs and features, with gradients."""
        result: tuple[Flat, Flat] = torch.func.functional_call(
            self.module, self._weights(self.leaves), tuple(inputs), tie_weights=False
        )
        return result

    def prune(self) -> None:
        """Set what a pruned weight has no longer to zero again, after a step of learning."""
        with torch.no_grad():
            for leaf, kept in zip(self.leaves, self.kept, strict=True):
                if kept is not None:
                    leaf.mul_(kept)

    def state(self) -> list[Tensor]:
        """A copy of what was learnt."""
        return [leaf.detach().clone() for leaf in self.leaves]

    def taught(self, state: Sequence[Tensor]) -> Program:
        """A new program with a learnt state."""
        made = self.program.clone()
        made.weights.update(self._weights(state))
        made.changed()
        return made

    def _weights(self, leaves: Sequence[Tensor]) -> dict[str, Tensor]:
        cast = [leaf.to(dtype) for leaf, (_, dtype) in zip(leaves, self.owners, strict=True)]
        return {name: value for value, (names, _) in zip(cast, self.owners, strict=True) for name in names}


def trainable(program: Program) -> list[str]:
    """Names of the weights that may learn, in the order in which the graph reads them."""
    found: dict[str, Any] = {}
    for node in program.graph.find_nodes(op="get_attr"):
        value = program.weight(node)
        if value is None or not value.is_floating_point() or value.numel() < 2 or _is_statistic(node):
            continue
        if bool(value.isfinite().all()):
            found[str(node.target)] = value
    return list(found)


def _is_statistic(node: fx.Node) -> bool:
    """A variance that learns may become negative."""
    return any(
        arguments(user).get(name) is node for user in node.users if "batch_norm" in key(user) for name in _STATISTICS
    )


def joints(original: Program, damaged: Program, correspondence: Correspondence) -> list[tuple[str, str]]:
    """Pairs of damaged and original nodes whose values compare: sums of two activations, as in residual streams."""
    known = {node.name for node in original.nodes if _is_joint(node)}
    pairs = [(node.name, correspondence.original(node.name)) for node in damaged.nodes if _is_joint(node)]
    return [(name, twin) for name, twin in pairs if twin in known]


def _is_joint(node: fx.Node) -> bool:
    if key(node) != "add" or not is_floating(node):
        return False
    operands = list(node.args[:2])
    return all(tensor(item) is not None and item.op == "call_function" for item in operands)  # type: ignore[union-attr]
