"""Which layers of a program are computed on integers, and which tensors are quantized for that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from tersor.convolution import CONVOLUTIONS, TRANSPOSED
from tersor.facts import opaque_types
from tersor.program import Program
from tersor.quant.placement import PRODUCTS, Rules
from tersor.rewrite_values import arguments, key, tensor

INTEGER_TYPES = ("QLinear", "QGemm", "QAttention", "ConvInteger", "MatMulInteger", "DynamicQuantize", "MatMulNBits")
"""How ONNX operator types begin that compute with integers."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer that is computed on integers.

    Attributes:
        node: the layer.
        source: the activation that it reads, before zeros are added around it: zero is a level of every grid.
        weight: its constant weight, outputs first.
        result: the last of the activations that are computed in the same kernel; the layer itself where there is none.
        closed: whether the kernel gives out integers.
    """

    node: fx.Node
    source: fx.Node
    weight: Tensor
    result: fx.Node
    closed: bool

    @property
    def reader(self) -> fx.Node:
        """What reads ``source``: the layer, or the node that adds zeros in front of it."""
        read = arguments(self.node)["input"]
        return self.node if read is self.source else read


@dataclass
class Plan:
    """What is quantized.

    Attributes:
        layers: by node.
        tensors: each node whose result is quantized, and the node whose range it shares, often its own.
        whole: of those, the ones whose every reader gets the quantized values.
        readers: nodes that get the quantized values of the others: the layers, and additions in a layer's kernel.
    """

    layers: dict[fx.Node, Layer] = field(default_factory=dict)
    tensors: dict[fx.Node, fx.Node] = field(default_factory=dict)
    whole: set[fx.Node] = field(default_factory=set)
    readers: set[fx.Node] = field(default_factory=set)


def candidates(program: Program, rules: Rules) -> Iterator[tuple[fx.Node, Layer | str]]:
    """Every layer that might be computed on integers, or why this one is not."""
    for node in program.nodes:
        if key(node) in rules.weighted:
            yield node, _layer(program, node, rules)
        elif key(node) in TRANSPOSED:
            yield node, "there is no integer kernel for transposed convolutions"
        elif key(node) in PRODUCTS:
            yield node, "a product of two activations: quantizing both costs more than integers save"
        elif key(node) == "tersor::opaque":
            integer = [kind for kind in opaque_types(program, node) if kind.startswith(INTEGER_TYPES)]
            if integer:
                yield node, f"it is quantized already: {', '.join(integer)}"


def _layer(program: Program, node: fx.Node, rules: Rules) -> Layer | str:
    given = arguments(node)
    source, weight = given["input"], program.weight(given["weight"])
    source = _before_zeros(source) if key(node) in CONVOLUTIONS else source
    if is_taken_back(given["weight"]) or is_taken_back(source):
        return "it is quantized already"
    if weight is None or (given["bias"] is not None and program.weight(given["bias"]) is None):
        return "its weight or bias is computed in the graph"
    found = tensor(source)
    if found is None or found.dtype != torch.float32 or weight.dtype != torch.float32:
        return f"it computes in {weight.dtype}"
    if not bool(weight.isfinite().all()):
        return "its weight is not finite"
    if not weight.numel():
        return "its weight is empty"
    return Layer(node, source, weight, _result(node, rules), key(node) in rules.closed)


def _before_zeros(source: fx.Node) -> fx.Node:
    """What a convolution's padding of its own is put around, as models from TensorFlow have it."""
    if key(source) not in ("pad", "constant_pad_nd") or len(source.users) > 1:
        return source
    given = arguments(source)
    return given["self"] if given.get("mode", "constant") == "constant" and not given.get("value") else source


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
    nodes = {layer.node: layer for layer in layers}
    made = Plan(nodes, readers={*nodes, *(layer.reader for layer in layers)})
    for layer in layers:
        made.tensors.setdefault(layer.source, layer.source)
        if layer.closed or (rules.eager and _only_integers_read(layer.result, made, rules)):
            made.tensors.setdefault(layer.result, layer.result)
            made.whole.add(layer.result)
    if rules.residual:
        _add_residuals(made, rules)
    for node in list(made.tensors):
        _share(node, made, rules)
    for node in sorted(made.tensors):
        made_by = behind(node, rules)
        if key(made_by) in rules.joined and all(source in made.whole for source in operands(made_by)):
            made.whole.add(node)
            if key(made_by) in rules.shared:
                _unify(node, operands(made_by), made)
    return made


def behind(node: fx.Node, rules: Rules) -> fx.Node:
    """What an activation that is computed in the same kernel works on."""
    while key(node) in rules.fused and len(operands(node)) == 1 and len(operands(node)[0].users) == 1:
        node = operands(node)[0]
    return node


def _only_integers_read(node: fx.Node, made: Plan, rules: Rules) -> bool:
    """Whether every reader is a layer of the plan, or moves or joins the values for such layers alone."""
    if not node.users:
        return False
    return all(
        any(layer.reader is user and layer.source is node for layer in made.layers.values())
        or (key(user) in (*rules.moved, *rules.shared) and _only_integers_read(user, made, rules))
        for user in node.users
    )


def _add_residuals(made: Plan, rules: Rules) -> None:
    """The other operand of an addition behind a layer is read as integers, so that the layer's kernel can add it."""
    for layer in list(made.layers.values()):
        users = list(layer.node.users)
        if len(users) != 1 or key(users[0]) != "add" or _result(users[0], rules) not in made.tensors:
            continue
        others = [source for source in operands(users[0]) if source is not layer.node]
        if len(others) == 1 and not (others[0] in made.layers and others[0] > layer.node):
            made.tensors.setdefault(others[0], others[0])
            made.readers.add(users[0])


def _share(node: fx.Node, made: Plan, rules: Rules) -> None:
    """A tensor that only moves another quantized one has its range, and so have those on the way."""
    chain = [node]
    while key(chain[-1]) in rules.moved and len(operands(chain[-1])) == 1:
        chain.append(operands(chain[-1])[0])
        if chain[-1] in made.whole:
            root = made.tensors[chain[-1]]
            made.tensors.update(dict.fromkeys(chain, root))
            made.whole.update(chain)
            return


def _unify(node: fx.Node, sources: Sequence[fx.Node], made: Plan) -> None:
    """Operands get the scale of the result, and with them whatever shares theirs."""
    root = made.tensors[node]
    old = {made.tensors[source] for source in sources}
    made.tensors.update({item: root for item, shared in made.tensors.items() if shared in old})


def operands(node: fx.Node) -> list[fx.Node]:
    """The activations that a node reads."""
    return [source for source in node.all_input_nodes if source.op != "get_attr" and tensor(source) is not None]
