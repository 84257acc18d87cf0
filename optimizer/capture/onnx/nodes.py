"""Preparing the steps of a replay: what operator functions see of a node, unique labels, lifetimes of values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import onnx
from onnx import AttributeProto, NodeProto

from tersor.capture.onnx.dtypes import TORCH_DTYPES
from tersor.capture.onnx.regions import Step
from tersor.capture.onnx.registry import Node
from tersor.capture.onnx.tensors import read_tensor


def node_of(step: Step, opsets: dict[str, int]) -> Node | None:
    """What an operator function is told of its node; None for steps that have to be opaque."""
    return None if step.reason else described(step.nodes[0], opsets)


def described(proto: NodeProto, opsets: Mapping[str, int]) -> Node:
    """A node with its version and its attributes as Python values."""
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    return Node(
        op_type=proto.op_type,
        domain=domain,
        version=opsets.get(domain, 1),
        name=proto.name,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attributes={attribute.name: _attribute(attribute) for attribute in proto.attribute},
    )


def _attribute(proto: AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(proto)
    match proto.type:
        case AttributeProto.STRING:
            return value.decode("utf-8", "replace")
        case AttributeProto.STRINGS:
            return [item.decode("utf-8", "replace") for item in value]
        case AttributeProto.TENSOR:
            return read_tensor(value, None) if value.data_type in TORCH_DTYPES else value
        case AttributeProto.FLOATS | AttributeProto.INTS:
            return list(value)
    return value


def unique(names: list[str]) -> list[str]:
    """The names, later ones of the same spelling with a number."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        unique.append(f"{name}#{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return unique


def dead_after(steps: list[Step], kept: list[str]) -> list[list[str]]:
    """For each step the values that no later step reads."""
    last: dict[str, int] = {}
    wanted = set(kept)
    for index, step in enumerate(steps):
        last.update((name, index) for name in (*step.outputs, *step.inputs))
    dead: list[list[str]] = [[] for _ in steps]
    for name, index in last.items():
        if name not in wanted:
            dead[index].append(name)
    return dead
