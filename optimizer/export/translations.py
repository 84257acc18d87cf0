"""ATen operators that this project writes as ONNX itself, where torch.onnx's own form has more nodes or is missing.

Each function takes the operator's arguments, with tensors as ONNX values, and records nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch

from tersor.export.attention import attention, attention_node
from tersor.export.division import divide, floor_divide
from tersor.export.dynamic_quantized import DYNAMIC
from tersor.export.gather import index
from tersor.export.norms import batch_norm, group_norm, rms_norm, rms_norm_node, whole_batch_norm
from tersor.export.placeholders import opaque_translation, reshape_operator
from tersor.export.quantized import quantized_table
from tersor.export.record import Value, ints, op, recorded, scalar, vector
from tersor.export.windows import (
    convolution,
    general_convolution,
    transposed_convolution,
    upsample_cubic,
    upsample_linear,
    upsample_nearest,
)

aten = torch.ops.aten


def translation_table(
    keep_attention: bool, opaque: Mapping[str, Any], opset: int
) -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table for ``torch.onnx.export(custom_translation_table=...)``.

    Args:
        keep_attention: write scaled-dot-product attention as one Attention node (opset 23 and later).
        opaque: the program's nodes kept verbatim, by key.
        opset: of the file.
    """
    return {
        **_TABLE,
        **DYNAMIC,
        **quantized_table(opset),
        **opaque_translation(opaque),
        aten.scaled_dot_product_attention.default: attention_node if keep_attention else attention,
        aten.rms_norm.default: rms_norm_node if opset >= 23 else rms_norm,
    }


def reshape(data: Value, sizes: Sequence[Any]) -> Value:
    """A reshape whose sizes may be computed; `shapes.simplify_shapes` makes them constant where it can."""
    if all(isinstance(size, int) for size in sizes):
        return op.Reshape(data, ints(*sizes), allowzero=int(0 in sizes))
    parts = [vector(size) for size in sizes]
    return op.Reshape(data, op.Concat(*parts, axis=0) if len(parts) > 1 else parts[0], allowzero=1)


def unbind(data: Value, dim: int = 0) -> Any:
    """One Gather per item: half the nodes of Slice and Squeeze."""
    count = data.shape[dim]
    if not isinstance(count, int):
        return op.SplitToSequence(data, axis=dim, keepdims=0)
    return [op.Gather(data, op.Constant(value_int=index), axis=dim) for index in range(count)]


def split_with_sizes(data: Value, sizes: Sequence[int], dim: int = 0) -> Any:
    """One Split node."""
    if not all(isinstance(size, int) for size in sizes):
        return op.SplitToSequence(data, op.Concat(*[vector(size) for size in sizes], axis=0), axis=dim)
    if len(sizes) == 1:
        return [op.Identity(data)]
    outputs = op.Split(data, axis=dim, num_outputs=len(sizes))
    node = outputs[0].producer()
    lengths = ints(*sizes)
    _move_last_before(node)
    node.attributes.pop("num_outputs")
    node.resize_inputs(2)
    node.replace_input_with(1, lengths)
    return outputs


def _move_last_before(node: ir.Node) -> None:
    """onnxscript's schema gives Split either lengths or a count; its count says how many outputs to make."""
    nodes = recorded()
    nodes.insert(next(index for index, known in enumerate(nodes) if known is node), nodes.pop())


def split(data: Value, size: Any, dim: int = 0) -> Any:
    """One Split node where the length is known."""
    length = data.shape[dim]
    if not isinstance(size, int) or not isinstance(length, int):
        return op.SplitToSequence(data, size, axis=dim)
    return split_with_sizes(data, [min(size, length - start) for start in range(0, max(length, 1), size)], dim)


def hardtanh(data: Value, low: float = -1.0, high: float = 1.0) -> Value:
    """Clip with constant bounds."""
    return clamp(data, low, high)


def clamp(data: Value, low: float | None = None, high: float | None = None) -> Value:
    """Clip with constant bounds; whole numbers become floating-point ones where a bound is."""
    if (
        data.dtype is not None
        and not data.dtype.is_floating_point()
        and isinstance(low if low is not None else high, float)
    ):
        data = op.Cast(data, to=ir.DataType.FLOAT)
        data.dtype = ir.DataType.FLOAT
    bounds = [None if bound is None else scalar(bound, data) for bound in (low, high)]
    return op.Clip(data, *bounds) if bounds != [None, None] else op.Identity(data)


def softplus(data: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """Softplus; ATen's switch to the identity at 20 is below what float32 can tell."""
    scaled = data if beta == 1 else op.Mul(data, scalar(beta, data))
    soft = op.Softplus(scaled)
    soft = soft if beta == 1 else op.Div(soft, scalar(beta, data))
    return soft if threshold >= 20 else op.Where(op.Greater(scaled, scalar(threshold, data)), data, soft)


def elu(data: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    """Elu, with products only where the scales are not one."""
    scaled = data if input_scale == 1 else op.Mul(data, scalar(input_scale, data))
    made = op.Elu(scaled, alpha=float(alpha))
    return made if scale == 1 else op.Mul(made, scalar(scale, data))


def log_sigmoid(data: Value) -> Value:
    """Through Softplus: the logarithm of a sigmoid is minus infinity from -104 on in float32."""
    return op.Neg(op.Softplus(op.Neg(data)))


def pixel_unshuffle(data: Value, factor: int) -> Value:
    """SpaceToDepth puts the block before the channel, ATen the channel before the block."""
    channels = data.shape[-3]
    if len(data.shape) != 4 or not isinstance(channels, int):
        raise NotImplementedError("pixel_unshuffle of other than four axes with a fixed number of channels")
    order = [block * channels + channel for channel in range(channels) for block in range(factor * factor)]
    return op.Gather(op.SpaceToDepth(data, blocksize=factor), ints(*order), axis=1)


def relu6(data: Value) -> Value:
    """Clip from 0 to 6."""
    return hardtanh(data, 0.0, 6.0)


def roll(data: Value, shifts: Any, dims: Any = ()) -> Value:
    """Two slices and a concatenation per axis of known length."""
    shifts, dims = ([item] if isinstance(item, int) else list(item) for item in (shifts, dims))
    flat = not dims
    rolled = op.Reshape(data, ints(-1)) if flat else data
    for shift, dim in zip(shifts, dims or [0], strict=True):
        length = math.prod(data.shape) if flat and data.shape.is_static() else data.shape[dim]
        if isinstance(length, int) and (length == 0 or shift % length == 0):
            continue
        cut = length - shift % length if isinstance(length, int) else -shift
        axis, step = ints(dim), ints(1)
        middle, start, end = (ints(number) for number in (cut, 0, 2**63 - 1))
        rolled = op.Concat(
            op.Slice(rolled, middle, end, axis, step), op.Slice(rolled, start, middle, axis, step), axis=dim
        )
    return op.Reshape(rolled, op.Shape(data)) if flat else rolled


def scatter_reduce(data: Value, dim: int, index: Value, source: Value, reduce: str, include_self: bool = True) -> Value:
    """scatter_reduce: ScatterElements has no mean, and leaving it out would be wrong without an error."""
    modes = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}
    if reduce not in modes or not include_self or not data.shape:
        raise NotImplementedError(f"scatter_reduce with reduce={reduce!r}, include_self={include_self} is not in ONNX")
    return op.ScatterElements(data, index, source, axis=dim, reduction=modes[reduce])


def subtract_from(data: Value, other: Any, alpha: float = 1) -> Value:
    """``other - alpha * data``: torch.onnx has no form of it, and traces the whole program again to be rid of it."""
    if isinstance(other, float) and data.dtype is not None and not data.dtype.is_floating_point():
        data = op.Cast(data, to=ir.DataType.FLOAT)
        data.dtype = ir.DataType.FLOAT
    whole = scalar(other, data) if isinstance(other, int | float) else op.CastLike(other, data)
    return op.Sub(whole, data if alpha == 1 else op.Mul(data, scalar(alpha, data)))


def squeeze(data: Value, dims: Sequence[int]) -> Value:
    """Without these axes, which `placeholders.prepared` has seen to be those that go."""
    return op.Squeeze(data, ints(*dims)) if dims else op.Identity(data)


_TABLE: dict[Callable[..., Any], Callable[..., Any]] = {
    reshape_operator: reshape,
    aten.unbind.int: unbind,
    aten.index.Tensor: index,
    aten.div.Tensor_mode: divide,
    aten.div.Scalar_mode: divide,
    aten.floor_divide.default: floor_divide,
    aten.floor_divide.Scalar: floor_divide,
    aten.split.Tensor: split,
    aten.split_with_sizes.default: split_with_sizes,
    aten.conv1d.default: convolution,
    aten.conv2d.default: convolution,
    aten.conv3d.default: convolution,
    aten.conv1d.padding: convolution,
    aten.conv2d.padding: convolution,
    aten.conv3d.padding: convolution,
    aten.convolution.default: general_convolution,
    aten.conv_transpose1d.default: transposed_convolution,
    aten.conv_transpose2d.input: transposed_convolution,
    aten.conv_transpose3d.input: transposed_convolution,
    aten.batch_norm.default: whole_batch_norm,
    aten._native_batch_norm_legit_no_training.default: batch_norm,
    aten.group_norm.default: group_norm,
    aten.rms_norm.default: rms_norm,
    aten.hardtanh.default: hardtanh,
    aten.relu6.default: relu6,
    aten.elu.default: elu,
    aten.log_sigmoid.default: log_sigmoid,
    aten.pixel_unshuffle.default: pixel_unshuffle,
    aten.softplus.default: softplus,
    aten.clamp.default: clamp,
    aten.roll.default: roll,
    aten.upsample_nearest1d.vec: upsample_nearest,
    aten.upsample_nearest2d.vec: upsample_nearest,
    aten.upsample_nearest3d.vec: upsample_nearest,
    aten.upsample_linear1d.vec: upsample_linear,
    aten.upsample_bilinear2d.vec: upsample_linear,
    aten.upsample_trilinear3d.vec: upsample_linear,
    aten.upsample_bicubic2d.vec: upsample_cubic,
    aten.scatter_reduce.two: scatter_reduce,
    aten.rsub.Scalar: subtract_from,
    aten.squeeze.dims: squeeze,
}
