"""Which layers of a program are computed on integers, and which tensors are quantized for that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from tersor.program import Program
from tersor.quant.placement import Rules
from tersor.rewrite_values import arguments, key, tensor


@dataclass(frozen=True)
class Layer:
    """A layer that is computed on integers.

    Attributes:
        node: the layer.
        source: the activation that it reads.
        weight: its constant weight, outputs first.
        result: the last of the activations that are computed in the same kernel; the layer itself where there is none.
        closed: whether the kernel gives out integers.
    """

    node: fx.Node
    source: fx.Node
    weight: Tensor
    result: fx.Node
    closed: bool


@dataclass
class Plan:
    """What is quantized.

    Attributes:
        layers: by node.
        tensors: each node whose result is quantized, and the node whose range it shares, often its own.
        whole: of those, the ones whose every reader gets the quantized values.
    """

    layers: dict[fx.Node, Layer] = field(default_factory=dict)
    tensors: dict[fx.Node, fx.Node] = field(default_factory=dict)
    whole: set[fx.Node] = field(default_factory=set)


def candidates(program: Program, rules: Rules) -> Iterator[tuple[fx.Node, Layer | str]]:
    """Every layer that the backend has an integer kernel for, or why this one cannot use it."""
    for node in program.nodes:
        if key(node) in rules.weighted:
            yield node, _layer(program, node, rules)


def _layer(program: Program, node: fx.Node, rules: Rules) -> Layer | str:
    given = arguments(node)
    source, weight = given["input"], program.weight(given["weight"])
    if is_taken_back(given["weight"]) or is_taken_back(source):
        return "it is quantized already"
    if weight is None or (given["bias"] is not None and program.weight(given["bias"]) is None):
        return "its weight or bias is computed in the graph"
    found = tensor(source)
    if found is None or found.dtype != torch.float32 or weight.dtype != torch.float32:
        return f"it computes in {weight.dtype}"
    if not bool(weight.isfinite().all()):
        return "its weight is not finite"
    return Layer(node, source, weight, _result(node, rules), key(node) in rules.closed)


def is_taken_back(node: object) -> bool:
    """Whether a node turns integers into real numbers."""
    return isinstance(node, fx.Node) and key(node).startswith("quantized_decomposed::dequantize")


def _result(node: fx.Node, rules: Rules) -> fx.Node:
    """The end of the chain of activations that the backend computes together with a layer."""
    while len(node.users) == 1:
        (user,) = node.users
        if key(user) not in rules.fused or user.all_input_nodes != [node]:
            break
        node = user
    return node


def plan(layers: Sequence[Layer], rules: Rules) -> Plan:
    """The tensors to quantize so that these layers, and what lies between them, are computed on integers."""
    made = Plan({layer.node: layer for layer in layers})
    for layer in layers:
        made.tensors.setdefault(layer.source, layer.source)
        if layer.closed:
            made.tensors.setdefault(layer.result, layer.result)
            made.whole.add(layer.result)
    for node in list(made.tensors):
        _share(node, made, rules)
    for node in sorted(made.tensors):
        made_by = _behind(node, rules)
        if key(made_by) in rules.joined and all(source in made.whole for source in _operands(made_by)):
            made.whole.add(node)
    return made


def _behind(node: fx.Node, rules: Rules) -> fx.Node:
    """What an activation that is computed in the same kernel works on."""
    while key(node) in rules.fused and len(_operands(node)) == 1 and len(_operands(node)[0].users) == 1:
        node = _operands(node)[0]
    return node


def _share(node: fx.Node, made: Plan, rules: Rules) -> None:
    """A tensor that only moves another quantized one has its range, and so have those on the way."""
    chain = [node]
    while key(chain[-1]) in rules.moved and len(_operands(chain[-1])) == 1:
        chain.append(_operands(chain[-1])[0])
        if chain[-1] in made.whole:
            root = made.tensors[chain[-1]]
            made.tensors.update(dict.fromkeys(chain, root))
            made.whole.update(chain)
            return


def _operands(node: fx.Node) -> list[fx.Node]:
    return [source for source in node.all_input_nodes if source.op != "get_attr" and tensor(source) is not None]
