"""What an N:M layer would gain on a device: which kernels take it, and the roofline with and without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from tersor.cost.roofline import Work
from tersor.errors import UsageError
from tersor.sparse.eligible import tensorrt, torch_semi_structured
from tersor.sparse.pack import TWO_FOUR, dense_bytes, packed_bytes
from tersor.sparse.pattern import Pattern
from tersor.target import Target

FEW_ROWS = 64
"""Rows up to which the project's kernel is meant: it saves bytes of weights, and no arithmetic."""

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8, "float32": torch.float32}
"""Formats that layers can be said to be computed in."""


@dataclass(frozen=True)
class Job:
    """One layer as a kernel sees it.

    Attributes:
        shape: of the weight, [out, in, *kernel].
        rows: positions of its result, batch included.
        places: positions of its input, likewise.
        dtype: that it is computed in.
    """

    shape: tuple[int, ...]
    rows: int
    places: int
    dtype: torch.dtype

    def work(self, weight_bytes: float) -> Work:
        """What the layer has to do with a weight of so many bytes, zeros not skipped."""
        outputs, inputs = self.shape[0], self.shape[1]
        size = torch.Size(self.shape).numel()
        moved = (self.places * inputs + self.rows * outputs) * self.dtype.itemsize
        return Work(2.0 * self.rows * size, moved + weight_bytes)


@dataclass(frozen=True)
class Kernel:
    """A family of sparse kernels.

    Attributes:
        name: of the library, as in reports.
        objection: why it does not take a layer at a compute capability; empty where it does.
        skips: whether its arithmetic skips the zeros as well.
    """

    name: str
    objection: Callable[[Job, tuple[int, int]], str]
    skips: bool


@dataclass(frozen=True)
class Gain:
    """Predicted times of one layer, the least that its data sheet allows.

    Attributes:
        target: name of the device.
        kernel: that takes the sparse weight.
        dense, sparse: seconds.
    """

    target: str
    kernel: str
    dense: float
    sparse: float

    @property
    def ratio(self) -> float:
        """How many times faster."""
        return self.dense / self.sparse

    def __str__(self) -> str:
        times = f"{self.dense * 1e6:.3g} to {self.sparse * 1e6:.3g} µs"
        return f"predicted gain of at most {self.ratio:.2f} on {self.target} with {self.kernel} ({times})"


def predict(job: Job, pattern: Pattern, backend: str, target: Target) -> Gain | str:
    """The best gain that a backend's kernels can give a layer, or why none of them takes it.

    Args:
        job: the layer.
        pattern: that its weight would have.
        backend: one of `BACKENDS`.
        target: a device with a data sheet.

    Raises:
        UsageError: unknown backend.

    >>> from tersor.target import named
    >>> big = Job((4096, 4096), rows=4096, places=4096, dtype=torch.float16)
    >>> found = predict(big, TWO_FOUR, "tensorrt", named("h100"))
    >>> isinstance(found, Gain) and 1.5 < found.ratio < 2.0
    True
    >>> predict(big, Pattern(4, 8), "tensorrt", named("h100"))
    'no kernel skips the zeros of 4:8'
    """
    found, reasons = [], []
    for kernel in kernels(backend):
        reason = _no_device(job, pattern, target) or kernel.objection(job, _capability(target))
        if reason:
            reasons.append(reason)
        else:
            found.append(_gain(job, kernel, target))
    return max(found, key=lambda gain: gain.ratio) if found else "; ".join(dict.fromkeys(reasons))


def kernels(backend: str) -> tuple[Kernel, ...]:
    """The sparse kernels that a backend can use; raises UsageError where there is no such backend."""
    if backend not in BACKENDS:
        raise UsageError(f"no sparse kernels are known of backend {backend!r}", f"one of {', '.join(BACKENDS)}")
    return BACKENDS[backend]


def _no_device(job: Job, pattern: Pattern, target: Target) -> str:
    """What of target and pattern rules out every kernel; empty where nothing does."""
    if target.device == "cpu":
        return f"no kernel of target {target.name} skips the zeros of {pattern}: predicted gain 1.00"
    if pattern != TWO_FOUR:
        return f"no kernel skips the zeros of {pattern}"
    if not target.bandwidth or not target.capability:
        return f"target {target.name} has no data sheet to predict a gain from; name a device, such as h100"
    if _name(job.dtype) not in target.sparse:
        return (
            f"{target.name} has no sparse rate for {_name(job.dtype)}; set compute where casts or quantization follow"
        )
    return ""


def _gain(job: Job, kernel: Kernel, target: Target) -> Gain:
    outputs, inputs = job.shape[0], torch.Size(job.shape[1:]).numel()
    name = _name(job.dtype)
    dense = job.work(dense_bytes(outputs, inputs, job.dtype))
    sparse = job.work(packed_bytes(outputs, inputs, job.dtype))
    rates = target.rate(name), target.rate(name, sparse=kernel.skips)
    times = (
        work.seconds(rate, target.bandwidth, target.launch) for work, rate in zip((dense, sparse), rates, strict=True)
    )
    return Gain(target.name, kernel.name, *times)


def _capability(target: Target) -> tuple[int, int]:
    major, _, minor = target.capability.partition(".")
    return int(major), int(minor or 0)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _few_rows(job: Job, capability: tuple[int, int]) -> str:
    """Why `tersor.kernels.sparse_24_matmul` does not fit; its shapes are free but for whole blocks."""
    if len(job.shape) != 2:
        return "only matrices have sparse kernels"
    if job.rows > FEW_ROWS:
        return f"{job.rows} rows are more than the {FEW_ROWS} for which weights are most of the time"
    return "" if capability >= (8, 0) else f"compute capability {capability[0]}.{capability[1]} is not supported"


def _semi_structured(library: str, job: Job, capability: tuple[int, int]) -> str:
    return torch_semi_structured(job.shape, job.dtype, library, capability)  # type: ignore[arg-type]


BACKENDS: dict[str, tuple[Kernel, ...]] = {
    "tensorrt": (Kernel("TensorRT", lambda job, at: tensorrt(job.shape, job.dtype, capability=at), skips=True),),
    "triton": (
        Kernel("sparse_24_matmul", _few_rows, skips=False),
        Kernel("cuSPARSELt", partial(_semi_structured, "cusparselt"), skips=True),
    ),
}
"""Sparse kernels by backend."""


def job_of(shape: Sequence[int], rows: int, places: int, dtype: torch.dtype, compute: str) -> Job:
    """A layer whose weight is of ``dtype``, computed in the format ``compute`` where that is not empty."""
    return Job(tuple(shape), rows, places, DTYPES[compute] if compute else dtype)
