"""Forms of operators that TensorRT's parser refuses although it imports the operator, each with the way around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from tersor.export.edit import constant_ints, dims_of, int_attribute, ints_attribute

Refusal = tuple[str, str]
"""What is wrong, and what to do about it."""

_COORDINATES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
_LARGEST_K = 3840


def refusal(node: ir.Node) -> Refusal | None:
    """Why a node is refused; None where nothing is known against it."""
    check = _CHECKS.get(node.op_type) if not node.domain else None
    return check(node) if check is not None else None


def _text(node: ir.Node, name: str, default: str) -> str:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def _used(node: ir.Node, place: int) -> bool:
    """Whether anything reads an output of a node."""
    if place >= len(node.outputs) or not node.outputs[place].name:
        return False
    value = node.outputs[place]
    return bool(value.uses()) or value.is_graph_output()


def _given(node: ir.Node, place: int) -> bool:
    return place < len(node.inputs) and node.inputs[place] is not None


def _is_constant(node: ir.Node, place: int) -> bool:
    value = node.inputs[place] if place < len(node.inputs) else None
    return value is None or value.const_value is not None


def _pool(node: ir.Node) -> Refusal | None:
    if any(step != 1 for step in ints_attribute(node, "dilations") or ()):
        return f"{node.op_type} has dilations", "take the pooling apart: strided slices, then a maximum"
    if node.op_type == "MaxPool" and _used(node, 1):
        return "MaxPool gives indices", "take them with ArgMax over windows, or do not use them"
    return None


def _resize(node: ir.Node) -> Refusal | None:
    coordinates = _text(node, "coordinate_transformation_mode", "half_pixel")
    if coordinates not in _COORDINATES:
        return f"Resize has coordinates {coordinates}", f"use one of {', '.join(_COORDINATES)}"
    if int_attribute(node, "antialias", 0):
        return "Resize has antialiasing", "resize without it, or blur with a convolution first"
    if _text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return "Resize keeps the aspect ratio", "give the sizes that follow from it"
    return None


def _grid_sample(node: ir.Node) -> Refusal | None:
    dims = dims_of(node.inputs[0])
    if dims is not None and len(dims) != 4:
        return f"GridSample reads {len(dims)} axes, and only 4 are taken", "fold the further axis into the batch"
    return None


def _top_k(node: ir.Node) -> Refusal | None:
    count = constant_ints(node.inputs[1]) if len(node.inputs) > 1 else None
    if count is not None and count[0] > _LARGEST_K:
        return f"TopK keeps {count[0]}, and at most {_LARGEST_K} are taken", "keep fewer, or sort behind the model"
    if not int_attribute(node, "sorted", 1):
        return "TopK gives its result unsorted", "ask for a sorted one"
    return None


def _scatter(node: ir.Node) -> Refusal | None:
    kind = _text(node, "reduction", "none")
    if kind != "none":
        return f"{node.op_type} has reduction {kind}", "write sums as a product with a one-hot matrix"
    return None


def _attention(node: ir.Node) -> Refusal | None:
    remedy = "keep the cache outside of attention: join keys and values before it"
    if any(_given(node, place) for place in (4, 5, 6)):
        return "Attention reads past keys or lengths", remedy
    if any(_used(node, place) for place in (1, 2, 3)):
        return "Attention gives present keys or scores", remedy
    soft = node.attributes.get("softcap")
    if soft is not None and float(soft.value) != 0:
        return "Attention has a soft cap", "export it at opset 22 or lower, as products and softmax"
    return None


def _recurrent(node: ir.Node) -> Refusal | None:
    for name in ("layout", "input_forget"):
        if int_attribute(node, name, 0):
            return f"{node.op_type} has {name}={int_attribute(node, name, 0)}", "export it with the default, 0"
    return None


def _one_hot(node: ir.Node) -> Refusal | None:
    return None if _is_constant(node, 1) else ("OneHot has a computed depth", "make the depth a constant")


def _convolution(node: ir.Node) -> Refusal | None:
    dims = dims_of(node.inputs[0])
    if dims is not None and len(dims) > 5:
        return f"{node.op_type} runs over {len(dims) - 2} axes, and at most 3 are taken", "fold an axis into the batch"
    return None


def _dropout(node: ir.Node) -> Refusal | None:
    return None if _is_constant(node, 2) else ("Dropout may be in training mode", "export the model in evaluation mode")


def _layer_norm(node: ir.Node) -> Refusal | None:
    if _used(node, 1) or _used(node, 2):
        return "LayerNormalization gives mean or deviation", "compute them beside it"
    return None


_CHECKS: Mapping[str, Callable[[ir.Node], Refusal | None]] = {
    "AveragePool": _pool,
    "MaxPool": _pool,
    "LpPool": _pool,
    "Resize": _resize,
    "GridSample": _grid_sample,
    "TopK": _top_k,
    "ScatterND": _scatter,
    "Attention": _attention,
    "LSTM": _recurrent,
    "OneHot": _one_hot,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Dropout": _dropout,
    "LayerNormalization": _layer_norm,
}
