"""Every kernel against its reference under Triton's interpreter: odd sizes, all formats, all options.

Run: TRITON_INTERPRET=1 python -m tests.kernels.cases [--many]. Prints one JSON object for each case; ``excess`` is the
largest error as a multiple of what rounding allows.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tests.kernels import operands, sparse_24_cases
from tests.kernels.operands import FLOATS, Given

Case = tuple[str, tuple[Any, ...], dict[str, Any]]
"""Kernel, and the arguments of its function in `operands`."""

WHOLE, HALF, SHORT = FLOATS
INT8, E4M3, E5M2 = torch.int8, torch.float8_e4m3fn, torch.float8_e5m2


def few() -> Iterator[Case]:
    """At least every format and every branch of every kernel once."""
    yield "attention", (WHOLE, 2, 4, 2, 37, 53, 20), {"causal": True, "values": 7}
    yield "attention", (WHOLE, 1, 2, 1, 67, 71, 16), {"window": 11, "bias": "hmn"}
    yield "attention", (WHOLE, 1, 1, 1, 1, 1, 1), {}
    yield "attention", (WHOLE, 2, 1, 1, 0, 5, 8), {}
    yield "attention", (WHOLE, 2, 2, 1, 19, 0, 8), {"causal": True}
    yield "attention", (HALF, 2, 2, 2, 131, 150, 24), {"causal": True, "window": 30, "offset": 19, "lengths": True}
    yield "attention", (HALF, 1, 2, 1, 40, 70, 32), {"block": 16}
    yield "attention", (SHORT, 1, 2, 1, 70, 41, 17), {"causal": True, "offset": -29, "bias": "b"}
    for dtype in FLOATS:
        yield "norm", (dtype, 5, 37), {"residual": True, "bias": True}
        yield "norm", (dtype, 3, 129), {"rms": True, "quantize": True, "residual": True}
        yield "glu", (dtype, 3, 2, 37), {"halves": True}
        yield "rotary", (dtype, 2, 3, 5, 14, 5), {"own": True, "table": dtype}
        yield "rotary", (dtype, 1, 2, 37, 8, 4), {"neighbours": True}
        yield "int4_matmul", (dtype, 5, 96, 37, 48), {"zero": True, "bias": True}
        yield "int4_matmul", (dtype, 1, 160, 3, 16), {}
        yield "token_match", (dtype, 2, 37, 13, 20), {}
        yield "token_merge", (dtype, 2, 7, 19, 37), {}
        yield "gated_linear_attention", (dtype, 1, 2, 19, 8, 5), {"state": True}
        yield "gated_linear_attention", (dtype, 2, 1, 67, 17, 20), {"per_channel": False}
        yield "scaled_matmul", (INT8, 5, 150, 37), {"zero": True, "activation": "gelu", "dtype": dtype}
    yield "norm", (WHOLE, 1, 1), {}
    yield "norm", (WHOLE, 0, 8), {"quantize": True}
    for activation in ("none", "relu", "gelu", "gelu_tanh"):
        yield "glu", (WHOLE, 2, 261), {"activation": activation}
    yield "glu", (HALF, 0, 4), {}
    yield "rotary", (WHOLE, 1, 1, 1, 2, 1), {}
    yield "rotary", (HALF, 1, 2, 0, 4, 1), {}
    yield "int4_matmul", (HALF, 0, 32, 3, 16), {}
    yield "token_match", (WHOLE, 1, 1, 1, 1), {"cosine": False}
    yield "token_match", (HALF, 1, 0, 3, 4), {}
    yield "token_merge", (WHOLE, 1, 1, 0, 1), {}
    yield "token_merge", (HALF, 0, 2, 1, 4), {}
    yield "gated_linear_attention", (WHOLE, 1, 1, 0, 3, 2), {"state": True}
    yield "gated_linear_attention", (WHOLE, 1, 1, 18, 4, 3), {"strong": 60.0}
    yield "scaled_matmul", (INT8, 1, 1, 1), {"per_row": False, "bias": False}
    yield "scaled_matmul", (INT8, 0, 7, 5), {}
    for kind in (E4M3, E5M2):
        yield "scaled_matmul", (kind, 19, 37, 70), {"activation": "silu", "decode": True}
        yield "scaled_matmul", (kind, 3, 128, 16), {"per_row": False, "decode": False}


def many() -> Iterator[Case]:
    """Larger and more of them."""
    for dtype in FLOATS:
        for size in (64, 72, 128, 256):
            yield "attention", (dtype, 1, 2, 1, 197, 197, size), {"causal": size == 128}
        yield "attention", (dtype, 2, 4, 2, 130, 260, 32), {"block": 64, "bias": "n", "scale": 0.3}
        yield "attention", (dtype, 1, 1, 1, 1, 300, 64), {"causal": True, "offset": 299}
        yield "attention", (dtype, 3, 2, 1, 129, 129, 40), {"lengths": True, "window": 64}
        yield "norm", (dtype, 7, 768), {"residual": True, "bias": True, "quantize": True}
        yield "norm", (dtype, 2, 5000), {"rms": True}
        yield "glu", (dtype, 5, 1031), {"activation": "gelu", "halves": True}
        yield "rotary", (dtype, 2, 4, 131, 128, 64), {}
        yield "rotary", (dtype, 1, 1, 67, 80, 16), {"neighbours": True}
        yield "int4_matmul", (dtype, 67, 512, 131, 128), {"zero": True}
        yield "int4_matmul", (dtype, 1, 768, 67, 768), {"bias": True}
        yield "int4_matmul", (dtype, 33, 192, 65, 96), {"zero": True}
        yield "token_match", (dtype, 2, 131, 197, 96), {}
        yield "token_match", (dtype, 1, 98, 99, 64), {"cosine": False}
        yield "token_merge", (dtype, 3, 67, 101, 300), {}
        yield "gated_linear_attention", (dtype, 1, 2, 131, 64, 64), {"state": True}
        yield "gated_linear_attention", (dtype, 1, 1, 131, 128, 67), {"per_channel": False, "state": True}
        yield "scaled_matmul", (INT8, 131, 300, 130), {"zero": True, "per_row": False, "dtype": dtype}
        yield "scaled_matmul", (E4M3, 65, 256, 64), {"dtype": dtype, "decode": True}
        yield "scaled_matmul", (E5M2, 65, 256, 64), {"dtype": dtype, "decode": False}


def row(case: Case) -> dict[str, Any]:
    """What one case gives."""
    name, arguments, options = case
    own = {key: options[key] for key in options if key == "decode"}
    module = importlib.import_module(f"tersor.kernels.{name}")
    given = getattr(operands, name)(*arguments, **{key: options[key] for key in options if key not in own})
    if torch.bfloat16 in (item.dtype for item in given[0]) and name in EXACT:
        own["exact"] = True  # the interpreter's arithmetic in bfloat16 is wrong
    made, wanted = module.launch(*given[0], **given[1], **own), module.reference(*given[0], **given[1])
    worst = matched(given, made, wanted) if name == "token_match" else excess(name, listed(made), listed(wanted))
    return {"kernel": name, "case": f"{arguments} {options}", "excess": worst}


EXACT = ("attention", "int4_matmul", "gated_linear_attention", "token_match")
"""Kernels that multiply in the dtype of their operands."""

LOOSE = {"attention": 1.0, "gated_linear_attention": 3.0, "int4_matmul": 0.5, "norm": 1.5}
"""Units of rounding of the largest result that 16-bit factors allow: probabilities, TF32, dequantized weights, and the
sum with a residual, which the interpreter rounds down to bfloat16 where PyTorch rounds to the nearest."""


def listed(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def excess(name: str, made: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest error of floats; levels may differ by one where a value lies between two."""
    worst, eps = 0.0, max(torch.finfo(item.dtype).eps for item in wanted if item.is_floating_point())
    short = eps == torch.finfo(torch.bfloat16).eps
    for got, true in zip(made, wanted, strict=True):
        assert got.dtype == true.dtype and got.shape == true.shape, (got.dtype, true.dtype, got.shape, true.shape)
        if not true.numel():
            continue
        error = (got.double() - true.double()).abs()
        if true.dtype == torch.int8:
            differ = float((error > 0).double().mean())
            worst = max(worst, float(error.max()) if short or differ < 0.02 else 100.0)
            continue
        share = max(LOOSE.get(name, 0.0) * eps, 1e-5)
        allowed = 2 * torch.finfo(true.dtype).eps * true.double().abs() + share * true.double().abs().max() + 1e-9
        worst = max(worst, float((error / allowed).nan_to_num(1e9).max()))
    return worst


def matched(given: Given, made: Any, wanted: Any) -> float:
    """Similarities agree, and where another token was found its similarity is the same."""
    worst = excess("token_match", [made[0]], [wanted[0]])
    first, second = (item.float() for item in given[0])
    if not first.numel():
        return worst
    if given[1]["cosine"]:
        first, second = (torch.nn.functional.normalize(item, dim=-1) for item in (first, second))
    found = (first @ second.transpose(1, 2)).gather(2, made[1][..., None])[..., 0]
    assert made[1].dtype == wanted[1].dtype
    return max(worst, excess("token_match", [found], [wanted[0]]))


def main() -> None:
    large = "--many" in sys.argv
    for case in many() if large else few():
        print(json.dumps(row(case)), flush=True)
    for name, whole in sparse_24_cases.FORMATS.items():
        for shape in sparse_24_cases.MANY if large else sparse_24_cases.FEW:
            worst = sparse_24_cases.excess(*shape, getattr(torch, name.split()[-1]), bool(whole))
            print(json.dumps({"kernel": "sparse_24_matmul", "case": f"{name} {shape}", "excess": worst}), flush=True)


if __name__ == "__main__":
    main()
