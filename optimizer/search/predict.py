"""The time of a program before it runs: by the cost model where the target has rates, else by operations and bytes."""

from __future__ import annotations

from tersor.cost.launches import launches
from tersor.cost.predict import cost
from tersor.program import Program
from tersor.target import Target

FASTER = {"int8": 2.0, "float16": 1.0, "bfloat16": 1.0}
"""Operations of a dtype for one of float32, where the target does not say; on a GPU halves count twice."""


def predicted_seconds(program: Program, target: Target, backend: str) -> float | None:
    """Seconds of one run at the example sizes; None where the target has no rates."""
    return cost(program, target, _rules(target, backend)).seconds if target.rates else None


def predicted_work(program: Program, target: Target, backend: str) -> float:
    """Float32 operations that take as long as the program, bytes counted by the target's balance.

    Only ratios of two such numbers mean something.
    """
    total = 0.0
    for one in launches(program.graph, _rules(target, backend)):
        speed = FASTER.get(one.dtype, 1.0) * (2.0 if target.device == "cuda" and "16" in one.dtype else 1.0)
        total += max(one.flops / speed, one.bytes * target.balance)
    return max(total, 1.0)


def predicted_ratio(program: Program, original: Program, target: Target, backend: str) -> float:
    """Predicted time of a program relative to another's."""
    if target.rates:
        after, before = (predicted_seconds(item, target, backend) for item in (program, original))
        if after and before:
            return after / before
    return predicted_work(program, target, backend) / predicted_work(original, target, backend)


def _rules(target: Target, backend: str) -> str:
    """Whose fusion rules hold where the backend is still open."""
    if backend != "auto":
        return backend
    return "onnxruntime" if target.device == "cpu" else "tensorrt"
