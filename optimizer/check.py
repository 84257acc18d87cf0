"""Compare what two programs compute: structure first, then numbers at several sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tersor.bindings import Binding
from tersor.errors import first_line
from tersor.interface import Flat
from tersor.program import Program
from tersor.report.model import Parity

Run = Callable[..., Flat]


@dataclass(frozen=True)
class Tolerance:
    """How far an output may move: ``|a - b| <= absolute * scale + relative * |b|``, scale the output's largest value.

    Sums are re-ordered by exact rewrites, so the error grows with the magnitude of what is summed, not of each item.
    """

    absolute: float
    relative: float


EXACT = {
    torch.float64: Tolerance(1e-9, 1e-7),
    torch.float32: Tolerance(2e-5, 1e-4),
    torch.float16: Tolerance(4e-3, 8e-3),
    torch.bfloat16: Tolerance(3e-2, 6e-2),
    torch.complex64: Tolerance(2e-5, 1e-4),
}


RUNTIME_FLOOR = 1e-6
"""Always allowed between runtimes: their exp, erf and sigmoid are approximations good to some 1e-7 of values near 1."""

ROUNDING = 8.0
"""Where the original's own rounding error is larger than the tolerance, this multiple of it is allowed instead."""


def compare(
    what: str,
    names: Sequence[str],
    reference: Flat,
    candidate: Flat,
    binding: dict[str, int],
    noise: Sequence[float] = (),
    looser: float = 1.0,
    floor: float = 0.0,
) -> Parity:
    """Differences per output.

    ``noise`` is the reference's own rounding error per output, see `tersor.noise`; ``looser`` multiplies the
    tolerance of each dtype; ``floor`` is a difference that is always allowed.
    """
    outputs: dict[str, dict[str, float]] = {}
    passed = len(reference) == len(candidate)
    noises = [*noise, *[0.0] * (len(reference) - len(noise))]
    for name, wanted, got, own in zip(names, reference, candidate, noises, strict=False):
        row = _difference(wanted, got, looser, max(own * ROUNDING, floor))
        outputs[name] = row
        passed = passed and row["excess"] <= 1.0
    return Parity(what, binding, outputs, passed)


def _difference(wanted: torch.Tensor, got: torch.Tensor, looser: float, floor: float) -> dict[str, float]:
    """``excess`` is the largest difference as a multiple of what is allowed; infinite where nothing is comparable."""
    wanted, got = torch.as_tensor(wanted), torch.as_tensor(got)
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return {"absolute": math.inf, "relative": math.inf, "allowed": 0.0, "excess": math.inf}
    if wanted.numel() == 0:
        return {"absolute": 0.0, "relative": 0.0, "allowed": 0.0, "excess": 0.0}
    tolerance = EXACT.get(wanted.dtype)
    if tolerance is None:
        return _unequal(wanted, got)
    a, b = _plain(wanted), _plain(got)
    finite = torch.isfinite(a)
    if not torch.equal(finite, torch.isfinite(b)) or not torch.equal(_special(a, finite), _special(b, finite)):
        return {"absolute": math.inf, "relative": math.inf, "allowed": 0.0, "excess": math.inf}
    a, b = a[finite], b[finite]
    if a.numel() == 0:
        return {"absolute": 0.0, "relative": 0.0, "allowed": 0.0, "excess": 0.0}
    scale = float(a.abs().max())
    error = (a - b).abs()
    allowed = looser * (tolerance.absolute * max(scale, 1e-6) + tolerance.relative * a.abs()).clamp(min=floor)
    worst = float(error.max())
    return {
        "absolute": worst,
        "relative": worst / max(scale, 1e-12),
        "allowed": float(allowed.max()),
        "excess": float((error / allowed).max()),
    }


def _plain(value: torch.Tensor) -> torch.Tensor:
    value = torch.view_as_real(value) if value.is_complex() else value
    return value.detach().cpu().double()


def _special(value: torch.Tensor, finite: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(value[~finite], nan=2.0, posinf=1.0, neginf=-1.0)


def _unequal(wanted: torch.Tensor, got: torch.Tensor) -> dict[str, float]:
    different = int((wanted != got).sum())
    excess = 0.0 if different == 0 else math.inf
    return {"absolute": float(different), "relative": different / wanted.numel(), "allowed": 0.0, "excess": excess}


def structure(original: Program, candidate: Program) -> str | None:
    """Why the candidate's interface differs from the original's; None where it is the same."""
    if original.interface.input_names != candidate.interface.input_names:
        return f"inputs are {candidate.interface.input_names}, were {original.interface.input_names}"
    if len(original.placeholders) != len(candidate.placeholders):
        return f"{len(candidate.placeholders)} inputs, were {len(original.placeholders)}"
    if len(original.outputs) != len(candidate.outputs):
        return f"{len(candidate.outputs)} outputs, were {len(original.outputs)}"
    for name, old, new in zip(original.interface.output_names, original.outputs, candidate.outputs, strict=True):
        problem = _value_difference(old.meta.get("val"), new.meta.get("val"))
        if problem:
            return f"output {name!r} {problem}"
    return None


def _value_difference(old: object, new: object) -> str | None:
    if not isinstance(old, torch.Tensor) or not isinstance(new, torch.Tensor):
        return None if isinstance(old, torch.Tensor) == isinstance(new, torch.Tensor) else "is no tensor any more"
    if old.dtype != new.dtype:
        return f"is {new.dtype}, was {old.dtype}"
    if old.dim() != new.dim():
        return f"has {new.dim()} axes, had {old.dim()}"
    for axis, (before, after) in enumerate(zip(old.shape, new.shape, strict=True)):
        if isinstance(before, torch.SymInt) and not isinstance(after, torch.SymInt):
            return f"has the constant size {after} on axis {axis}, which was dynamic"
        if isinstance(before, int) and isinstance(after, int) and before != after:
            return f"has size {after} on axis {axis}, had {before}"
    return None


def judge(
    what: str,
    reference: Sequence[Flat],
    run: Run,
    cases: Sequence[Binding],
    names: Sequence[str],
    noise: Callable[[int], Sequence[float]] | None = None,
    floor: float = 0.0,
) -> list[Parity]:
    """Run a candidate at every binding and compare with the original's outputs there.

    An exception counts as a failed check, and is its ``what``. ``noise`` gives the original's own rounding error at
    a case; it is asked only where the tolerance of the dtype is exceeded.
    """
    results = []
    for position, (wanted, case) in enumerate(zip(reference, cases, strict=True)):
        try:
            got = run(*case.inputs)
        except Exception as error:
            line = first_line(error)
            raised = f"{what}: raises {type(error).__name__}: {line}"
            results.append(Parity(raised, case.sizes, {}, False, case.given))
            continue
        parity = compare(what, names, wanted, got, case.sizes, floor=floor)
        if not parity.passed and noise is not None and _comparable(parity):
            parity = compare(what, names, wanted, got, case.sizes, noise(position), floor=floor)
        parity.inputs = case.given
        results.append(parity)
    return results


def _comparable(parity: Parity) -> bool:
    return all(math.isfinite(row["excess"]) for row in parity.outputs.values())


def failure(parities: Sequence[Parity]) -> str | None:
    """One line on the first failed check, or None."""
    for parity in parities:
        if parity.passed:
            continue
        where = _where(parity)
        if not parity.outputs:
            return f"{parity.what}{where}"
        name, row = max(parity.outputs.items(), key=lambda item: item[1]["excess"])
        return f"output {name!r} differs by {row['absolute']:.3g} where {row['allowed']:.3g} is allowed{where}"
    return None


def _where(parity: Parity) -> str:
    sizes = ", ".join(f"{name}={size}" for name, size in parity.binding.items())
    return "".join([f" at {sizes}" if sizes else "", f" {parity.inputs}" if parity.inputs else ""])
