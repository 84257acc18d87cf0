"""What stands between the pipeline and recovery: the repair that follows each lossy pass."""

from __future__ import annotations

from tersor import recover
from tersor.context import Context
from tersor.pipeline import Repair
from tersor.program import Program
from tersor.progress import Progress
from tersor.quant.seen import enough, smallest
from tersor.report.model import SiteRecord

METHODS = (*recover.METHODS, "none")
"""Ways to recover; the first is the default."""


ROUNDED = 12
"""Calibration inputs that layers are repaired with after quantization, the smallest ones."""

WORK = 3e10
"""Floating-point operations that one run over these may take; but four inputs are always looked at."""


def repairer(method: str, progress: Progress, seed: int, seconds: float = 60.0) -> Repair | None:
    """The repair that goes by this name; None for "none".

    "distill" runs for at most ``seconds``, after least squares.
    """
    if method == "none":
        return None
    steps: tuple[str, ...] = ("least-squares", "distill") if method == "distill" else (method,)

    def repair(before: Program, damaged: Program, context: Context) -> tuple[Program, list[SiteRecord]]:
        correspondence = recover.Correspondence(tuple(context.cuts))
        inputs, chosen = context.calibration, steps
        if context.precision is not None:
            # Rounding harms every layer a little: a few inputs show what its mean is, and weights would fit to noise.
            inputs = tuple(enough(before, smallest(context.calibration, ROUNDED), WORK, 4))
            chosen = tuple("bias" if step == "least-squares" else step for step in steps)
        done = recover.recover(
            before, damaged, correspondence, inputs, chosen, progress=progress, seed=seed, seconds=seconds
        )
        told = [
            SiteRecord(
                layer.node, f"{layer.method}: error {layer.before:.3g} to {layer.after:.3g} of the output's energy"
            )
            for layer in done.layers
            if layer.kept
        ]
        return done.program, told

    return repair
