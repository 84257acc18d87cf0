"""What each backend computes on integers, and so where quantizing and taking back pays."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from tersor.convolution import CONVOLUTIONS
from tersor.errors import UsageError
from tersor.target import Target

_MOVED = (
    "view", "reshape", "permute", "transpose", "flatten", "unflatten", "squeeze", "unsqueeze", "slice", "select",
    "max_pool1d", "max_pool2d", "max_pool3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
    "expand", "contiguous", "clone",
)  # fmt: skip
_CLIPPED = ("relu", "clamp", "hardtanh", "relu6", "clamp_min")
_SMOOTH = ("silu", "hardswish", "gelu", "sigmoid", "elu")

PRODUCTS = ("matmul", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention")
"""Products of two activations. No table takes them: both operands would have to be quantized in kernels of their own,
and that takes longer than eight-bit products save (decision 8 has the figures)."""


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
        devices: torch's names of the devices that have these kernels.
        symmetric: activations have no zero point.
        wide_bias: a bias is added as 32-bit integers.
        shared: of ``joined``, those whose operands must have the scale of their result.
        residual: an addition behind a layer is computed in the layer's kernel where its other operand is quantized.
        eager: what a layer gives to integer kernels alone is quantized in its own kernel, before it is moved.
        conversion: multiply-adds in floating point that take as long as quantizing one number, or taking it back, in a
            kernel of its own; 0 where nothing is known.
        saved: share of a layer's time that integers save.
        depthwise: what integers save on a multiply-add of a depthwise convolution, in multiply-adds of others; negative
            where they take longer.
    """

    weighted: tuple[str, ...]
    closed: tuple[str, ...]
    fused: tuple[str, ...]
    moved: tuple[str, ...]
    joined: tuple[str, ...]
    activations: str
    source: str
    devices: tuple[str, ...] = ("cpu",)
    symmetric: bool = False
    wide_bias: bool = True
    shared: tuple[str, ...] = ()
    residual: bool = False
    eager: bool = False
    conversion: float = 0.0
    saved: float = 0.7
    depthwise: float = 0.0


RULES = {
    "onnxruntime": Rules(
        weighted=(*CONVOLUTIONS, "linear"),
        closed=CONVOLUTIONS,
        fused=_CLIPPED,
        moved=_MOVED,
        joined=("add", "mul", "cat", "avg_pool2d", "leaky_relu", "sigmoid", "softmax"),
        activations="uint8",
        source="ONNX Runtime, core/optimizer/qdq_transformer/selectors_actions/qdq_selector_action_transformer.cc",
        conversion=8.0,
        depthwise=-0.3,
    ),
    "openvino": Rules(
        weighted=(*CONVOLUTIONS, "linear"),
        closed=(),
        fused=(*_CLIPPED, *_SMOOTH),
        moved=_MOVED,
        joined=("add", "mul", "cat", "avg_pool2d"),
        activations="uint8",
        source="OpenVINO, low precision transformations (docs: plugin transformation pipeline)",
        shared=("cat",),
        eager=True,
        conversion=8.0,
    ),
    "tensorrt": Rules(
        weighted=(*CONVOLUTIONS, "linear"),
        closed=(),
        fused=(*_CLIPPED, *_SMOOTH),
        moved=_MOVED,
        joined=("add", "cat", "avg_pool2d"),
        activations="int8",
        source="NVIDIA TensorRT documentation, Working with Quantized Types: Explicit Quantization, Q/DQ placement",
        devices=("cuda",),
        symmetric=True,
        wide_bias=False,
        shared=("cat",),
        residual=True,
        eager=True,
    ),
}
"""By backend."""

DEFAULT = {"cpu": "onnxruntime", "cuda": "tensorrt"}
"""The table taken for a device where none is named."""


def rules(backend: str, target: Target | None = None, asked: str = "auto") -> Rules:
    """The table of a backend, or with "auto" that of the backend that was asked for elsewhere, or that of a target.

    Raises UsageError with the nearest that has a table.

    >>> rules("onnxruntime").activations
    'uint8'
    """
    if backend == "auto":
        usual = DEFAULT.get(target.device if target is not None else "cpu", "onnxruntime")
        backend = asked if asked in RULES else usual
    if backend not in RULES:
        near = get_close_matches(backend, RULES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"backends with one: auto, {', '.join(RULES)}"
        raise UsageError(f"backend {backend!r} has no table of integer kernels", hint)
    return RULES[backend]
