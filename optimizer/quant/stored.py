"""Weights kept in few bits while the program computes in floating point: formats, levels, nodes that read them."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor, fx

from tersor.errors import UsageError
from tersor.program import Program
from tersor.quant.floats import BLOCKS, MAGNITUDES, floating, quantize, quantize_blocks, scale_of
from tersor.quant.grid import grid
from tersor.quant.insert import Q
from tersor.quant.levels import Levels, wide
from tersor.rewrite import insert_call, insert_weight
from tersor.rewrite_arguments import set_argument
from tersor.rewrite_values import arguments, key


@dataclass(frozen=True)
class Format:
    """A way to keep weights.

    Attributes:
        name: as users write it.
        kind: "integer", "float", or "block" for E2M1 numbers in blocks that share a scale.
        group: inputs that share a scale; None is one scale for each output.
        symmetric: integers whose zero is level 0.
        bits: of one weight, without its share of the scale.
        method: how it is rounded where the user does not say.
        backends: those that read it.
    """

    name: str
    kind: str
    group: int | None
    symmetric: bool
    bits: int
    method: str
    backends: tuple[str, ...]


_EVERY = ("onnxruntime", "openvino", "inductor", "eager")
_TORCH = ("inductor", "eager")
_SIGNED = (*_EVERY, "tensorrt")
FORMATS = {
    item.name: item
    for item in (
        Format("int8", "integer", None, True, 8, "nearest", _SIGNED),
        Format("int4", "integer", 32, True, 4, "gptq", _SIGNED),
        Format("uint4", "integer", 32, False, 4, "gptq", _EVERY),
        Format("e4m3", "float", None, True, 8, "nearest", _SIGNED),
        Format("e5m2", "float", None, True, 8, "nearest", _EVERY),
        Format("mxfp4", "block", BLOCKS["mxfp4"], True, 4, "nearest", _TORCH),
        Format("nvfp4", "block", BLOCKS["nvfp4"], True, 4, "nearest", _TORCH),
    )
}
"""By name. What ONNX Runtime and OpenVINO read was tried on their CPU kernels."""


def weight_format(name: str) -> Format:
    """The format of this name; raises UsageError with the nearest.

    >>> weight_format("uint4").group
    32
    """
    if name not in FORMATS:
        near = get_close_matches(name, FORMATS, n=1)
        raise UsageError(
            f"unknown format of weights {name!r}",
            f"did you mean {near[0]!r}?" if near else f"known: {', '.join(FORMATS)}",
        )
    return FORMATS[name]


@dataclass(frozen=True, eq=False)
class Stored:
    """A weight as it is kept.

    Attributes:
        level: [out, in], int8, uint8 or float8; E2M1 numbers are kept doubled, as whole numbers.
        scale: float32 [out, n], each for ``in / n`` neighbouring inputs.
        zero: int32 as ``scale``; None where all are 0.
        lowest, highest: what a level may be.
    """

    level: Tensor
    scale: Tensor
    zero: Tensor | None
    lowest: int
    highest: int

    @property
    def values(self) -> Tensor:
        """Real numbers, float32 [out, in]."""
        inputs = self.level.shape[-1]
        level = self.level.float() if self.zero is None else self.level.float() - wide(self.zero, inputs)
        return level * wide(self.scale, inputs)


def of_levels(levels: Levels, name: str) -> Stored:
    """Integers of a grid."""
    on = grid(name)
    zero = levels.zero if bool(levels.zero.any()) else None
    return Stored(levels.level, levels.scale, zero, on.lowest, on.highest)


def of_floats(weight: Tensor, name: str) -> Stored:
    """E4M3 or E5M2 with a scale for each output."""
    on = floating(name)
    scale = scale_of(weight.abs().amax(-1, keepdim=True), on)
    return Stored(quantize(weight, scale, on), scale, None, -int(on.highest), int(on.highest))


def of_blocks(weight: Tensor, name: str) -> Stored:
    """MXFP4 or NVFP4; twice an E2M1 number is a whole one, so that the nodes for integers serve."""
    made = quantize_blocks(weight, name)
    table = torch.tensor([2 * item for item in (*MAGNITUDES, *(-item for item in MAGNITUDES))]).to(torch.int8)
    level = table.to(weight.device)[made.code.long()]
    return Stored(level, made.scale.float() * made.whole / 2, None, -12, 12)


def put_stored(program: Program, node: fx.Node, made: Stored) -> None:
    """Let a linear layer read a kept weight: one node that takes integers back, or a cast and a product."""
    path = str(arguments(node)["weight"].target)
    level, dtype = insert_weight(program, node, f"{path}_quantized", made.level), made.level.dtype
    outputs, groups = made.scale.shape
    if dtype.is_floating_point:
        scale = insert_weight(program, node, f"{path}_scale", made.scale)
        plain = insert_call(node, Q.convert_element_type.no_fuse, (level, torch.float32), like=node)
        back = insert_call(node, torch.ops.aten.mul.Tensor, (plain, scale), like=node)
    elif groups == 1:
        zero = torch.zeros(outputs) if made.zero is None else made.zero.flatten()
        constants = (
            level,
            insert_weight(program, node, f"{path}_scale", made.scale.flatten()),
            insert_weight(program, node, f"{path}_zero", zero.long()),
        )
        numbers = (0, made.lowest, made.highest, dtype)
        back = insert_call(node, Q.dequantize_per_channel.default, (*constants, *numbers), like=node)
    else:
        kept = None if made.zero is None else insert_weight(program, node, f"{path}_zero", made.zero)
        scale = insert_weight(program, node, f"{path}_scale", made.scale)
        rest = (made.lowest, made.highest, dtype, made.level.shape[1] // groups, torch.float32)
        back = insert_call(node, Q.dequantize_per_channel_group.default, (level, scale, kept, *rest), like=node)
    set_argument(node, "weight", back)


def is_kept_small(node: object) -> bool:
    """Whether an argument is a weight that `put_stored`, or the quantize pass, has put."""
    while isinstance(node, fx.Node) and key(node) == "mul":
        node = node.args[0]
    return isinstance(node, fx.Node) and key(node).startswith(_TAKEN_BACK)


_TAKEN_BACK = ("quantized_decomposed::dequantize", "quantized_decomposed::convert_element_type")
