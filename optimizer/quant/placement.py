"""What each backend computes on integers, and so where quantizing and taking back pays."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from tersor.convolution import CONVOLUTIONS
from tersor.errors import UsageError

_MOVED = (
    "view", "reshape", "permute", "transpose", "flatten", "unflatten", "squeeze", "unsqueeze", "slice", "select",
    "max_pool1d", "max_pool2d", "max_pool3d", "expand", "contiguous", "clone",
)  # fmt: skip


@dataclass(frozen=True)
class Rules:
    """One backend's integer kernels, by ATen operator.

    Attributes:
        weighted: multiply by a constant weight.
        closed: of those, the ones that are fused only where their result is quantized too.
        fused: activations that are computed in the same kernel as the layer before them.
        moved: give out numbers that they took in, so that the same scale serves before and after.
        joined: have integer kernels of their own.
        activations: format of activations, see `tersor.quant.grid`.
        source: where that is written.
    """

    weighted: tuple[str, ...]
    closed: tuple[str, ...]
    fused: tuple[str, ...]
    moved: tuple[str, ...]
    joined: tuple[str, ...]
    activations: str
    source: str


RULES = {
    "onnxruntime": Rules(
        weighted=(*CONVOLUTIONS, "linear"),
        closed=CONVOLUTIONS,
        fused=("relu", "clamp", "hardtanh", "relu6", "clamp_min"),
        moved=_MOVED,
        joined=("add", "mul", "cat", "avg_pool2d", "leaky_relu", "sigmoid"),
        activations="uint8",
        source="ONNX Runtime, core/optimizer/qdq_transformer/selectors_actions/qdq_selector_action_transformer.cc",
    ),
    "openvino": Rules(
        weighted=(*CONVOLUTIONS, "linear"),
        closed=(),
        fused=("relu", "clamp", "hardtanh", "relu6", "clamp_min", "silu", "hardswish", "gelu", "sigmoid", "elu"),
        moved=_MOVED,
        joined=("add", "mul", "cat", "avg_pool2d"),
        activations="uint8",
        source="OpenVINO, low precision transformations (docs: plugin transformation pipeline)",
    ),
}
"""By backend."""


def rules(backend: str) -> Rules:
    """The table of a backend; raises UsageError with the nearest that has one.

    >>> rules("onnxruntime").activations
    'uint8'
    """
    if backend not in RULES:
        near = get_close_matches(backend, RULES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"backends with one: {', '.join(RULES)}"
        raise UsageError(f"backend {backend!r} has no table of integer kernels", hint)
    return RULES[backend]
