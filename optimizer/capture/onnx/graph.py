"""The checked, ordered graph of a model: constants lifted out, local functions inlined, value types inferred."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.inliner
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from tersor.capture.onnx.constants import constant_tensor
from tersor.capture.onnx.files import ModelFile, opsets
from tersor.capture.onnx.tensors import check_tensor, dense, is_external, item_count
from tersor.errors import ModelFileError

_SMALL_ITEMS = 1024
"""Tensors with more items keep only type and shape while shapes are inferred and functions inlined."""


@dataclass(frozen=True)
class Graph:
    """What the replay needs of a model.

    Attributes:
        nodes: in topological order, without `Constant` nodes whose value is a tensor.
        constants: initializers and values of `Constant` nodes by name (string tensors too).
        inputs: those that a caller gives; an input with an initializer is a constant.
        types: what is known of the type of each value.
        functions: local functions that could not be inlined.
    """

    nodes: tuple[NodeProto, ...]
    constants: dict[str, TensorProto]
    inputs: tuple[ValueInfoProto, ...]
    outputs: tuple[ValueInfoProto, ...]
    types: dict[str, TypeProto]
    opsets: dict[str, int]
    functions: tuple[onnx.FunctionProto, ...]
    ir_version: int
    base: Path | None


def read_graph(model: ModelFile) -> Graph:
    """Normalise and check the graph of a model.

    Raises:
        ModelFileError: a cycle, a value that nobody or two nodes produce, a damaged tensor, a domain without version.
    """
    constants = _constants(model.proto.graph)
    skeleton = _skeleton(model.proto, constants)
    if skeleton.functions:
        skeleton = _inlined(skeleton)
        lifted = _constants(skeleton.graph)
        constants |= {name: proto for name, proto in lifted.items() if name not in constants}
        skeleton = _skeleton(skeleton, constants)
    for proto in constants.values():
        check_tensor(proto, model.base)
    _check_domains(skeleton)
    graph = skeleton.graph
    inputs = tuple(value for value in graph.input if value.name not in constants)
    nodes = _ordered(list(graph.node), [*constants, *(value.name for value in inputs)])
    _check_outputs(graph, nodes, constants)
    return Graph(
        nodes=nodes,
        constants=constants,
        inputs=inputs,
        outputs=tuple(graph.output),
        types=_types(skeleton, nodes),
        opsets=opsets(skeleton),
        functions=tuple(skeleton.functions),
        ir_version=skeleton.ir_version,
        base=model.base,
    )


def captured(node: NodeProto) -> list[str]:
    """Names of outer values that the bodies of If, Loop, Scan … use, each once, in order of use."""
    names: dict[str, None] = {}
    for body in bodies(node):
        own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
        own |= {tensor.values.name for tensor in body.sparse_initializer}
        for inner in body.node:
            names.update((name, None) for name in (*inner.input, *captured(inner)) if name and name not in own)
            own.update(inner.output)
        names.update((value.name, None) for value in body.output if value.name not in own)
    return list(names)


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def used(node: NodeProto) -> list[str]:
    """Every value a node reads: its inputs, then what its bodies capture."""
    return list(dict.fromkeys([name for name in node.input if name] + captured(node)))


def _constants(graph: GraphProto) -> dict[str, TensorProto]:
    found: dict[str, TensorProto] = {}
    for tensor in [*graph.initializer, *(dense(sparse) for sparse in graph.sparse_initializer)]:
        if tensor.name in found:
            raise ModelFileError(f"two initializers are called '{tensor.name}'", "export the model again")
        found[tensor.name] = tensor
    for node in graph.node:
        tensor_value = constant_tensor(node)
        if tensor_value is None:
            continue
        if node.output[0] in found:
            raise ModelFileError(f"two nodes produce '{node.output[0]}'", "export the model again")
        found[node.output[0]] = tensor_value
    return found


def _skeleton(proto: onnx.ModelProto, constants: dict[str, TensorProto]) -> onnx.ModelProto:
    """The model with its constants as initializers, the large ones as names of a type and shape only."""
    slim = onnx.ModelProto(ir_version=proto.ir_version)
    slim.opset_import.extend(proto.opset_import)
    slim.functions.extend(proto.functions)
    graph = slim.graph
    graph.name = proto.graph.name or "graph"
    graph.node.extend(node for node in proto.graph.node if not (_is_constant(node) and node.output[0] in constants))
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    graph.value_info.extend(proto.graph.value_info)
    graph.initializer.extend(_stub(name, tensor) for name, tensor in constants.items())
    return slim


def _is_constant(node: NodeProto) -> bool:
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def _stub(name: str, tensor: TensorProto) -> TensorProto:
    if item_count(tensor) <= _SMALL_ITEMS and not is_external(tensor):
        stub = TensorProto()
        stub.CopyFrom(tensor)
        stub.name = name
        return stub
    return TensorProto(name=name, data_type=tensor.data_type, dims=tensor.dims)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception:  # any failure leaves the calls in place: they are then kept verbatim
        return model


def _check_domains(model: onnx.ModelProto) -> None:
    known = set(opsets(model)) | {function.domain for function in model.functions}
    for node in model.graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain not in known:
            raise ModelFileError(
                f"node '{label(node)}' ({node.op_type}) is of domain '{domain}', which has no opset version",
                "add the domain to the model's opset_import",
            )


def label(node: NodeProto) -> str:
    """What to call a node in messages and provenance: its name, else its first output."""
    return str(node.name or next((name for name in node.output if name), node.op_type))


def _ordered(nodes: list[NodeProto], known: list[str]) -> tuple[NodeProto, ...]:
    """The nodes in topological order; those of a sorted file keep theirs."""
    producer = _producers(nodes, known)
    waiting = [0] * len(nodes)
    users: list[list[int]] = [[] for _ in nodes]
    available = set(known)
    for index, node in enumerate(nodes):
        for name in used(node):
            if name in available:
                continue
            if name not in producer:
                raise ModelFileError(
                    f"node '{label(node)}' ({node.op_type}) reads '{name}', which nothing produces",
                    "the file is damaged: export it again",
                )
            users[producer[name]].append(index)
            waiting[index] += 1
    order = _kahn(waiting, users)
    if len(order) < len(nodes):
        placed = set(order)
        stuck = next(node for index, node in enumerate(nodes) if index not in placed)
        raise ModelFileError(
            f"node '{label(stuck)}' ({stuck.op_type}) is part of a cycle, or behind one",
            "an ONNX graph must be acyclic: export the model again",
        )
    return tuple(nodes[index] for index in order)


def _kahn(waiting: list[int], users: list[list[int]]) -> list[int]:
    if all(user > index for index, those in enumerate(users) for user in those):
        return list(range(len(waiting)))
    ready = deque(index for index, count in enumerate(waiting) if not count)
    order: list[int] = []
    while ready:
        index = ready.popleft()
        order.append(index)
        for user in users[index]:
            waiting[user] -= 1
            if not waiting[user]:
                ready.append(user)
    return order


def _producers(nodes: list[NodeProto], known: list[str]) -> dict[str, int]:
    producer: dict[str, int] = {}
    taken = set(known)
    if len(taken) < len(known):
        twice = next(name for name in known if known.count(name) > 1)
        raise ModelFileError(f"two graph inputs are called '{twice}'", "export the model again")
    for index, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in taken:
                raise ModelFileError(
                    f"node '{label(node)}' ({node.op_type}) produces '{name}', which exists already",
                    "value names must be unique: export the model again",
                )
            taken.add(name)
            producer[name] = index
    return producer


def _check_outputs(graph: GraphProto, nodes: tuple[NodeProto, ...], constants: dict[str, TensorProto]) -> None:
    known = {name for node in nodes for name in node.output} | set(constants) | {value.name for value in graph.input}
    for value in graph.output:
        if value.name not in known:
            raise ModelFileError(f"graph output '{value.name}' is produced by nothing", "export the model again")


def _types(model: onnx.ModelProto, nodes: tuple[NodeProto, ...]) -> dict[str, TypeProto]:
    ordered = onnx.ModelProto()
    ordered.CopyFrom(model)
    del ordered.graph.node[:]
    ordered.graph.node.extend(nodes)
    try:
        graph = onnx.shape_inference.infer_shapes(ordered, strict_mode=False, data_prop=True).graph
    except Exception:  # inference is a help, not a check: values of unknown type are observed when the model runs
        graph = ordered.graph
    return {value.name: value.type for value in (*graph.value_info, *graph.input, *graph.output)}
