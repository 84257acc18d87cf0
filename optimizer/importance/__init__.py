"""Importance: which indices of a group are worth keeping. Criteria by name, and the check of what they return.

A criterion is any callable ``(program, axes, groups, context) -> {axis: scores}`` with one number per index, higher for
what is more worth keeping. Those here are frozen dataclasses whose fields are their options; the numerical method of
each is a pure function on tensors beside it.
"""

from __future__ import annotations

from difflib import get_close_matches

from tersor.errors import UsageError
from tersor.importance.activation import Activation
from tersor.importance.bn_scale import BnScale
from tersor.importance.criterion import Checked, Criterion, Scores, normalized
from tersor.importance.data_free import DataFree
from tersor.importance.hessian import Hessian
from tersor.importance.magnitude import Lamp, Magnitude, Random
from tersor.importance.surgeon import Surgeon
from tersor.importance.taylor import Taylor, Taylor2
from tersor.importance.trajectory import Trajectory

CRITERIA: dict[str, Criterion] = {
    "magnitude": Magnitude(),
    "magnitude-l1": Magnitude(norm=1),
    "lamp": Lamp(),
    "bn-scale": BnScale(),
    "random": Random(),
    "data-free": DataFree(),
    "taylor": Taylor(),
    "taylor2": Taylor2(),
    "hessian": Hessian(),
    "activation": Activation(),
    "fluctuation": Activation(centered=True),
    "surgeon": Surgeon(),
    "surgeon-ordered": Surgeon(ordered=True),
    "trajectory": Trajectory(),
}
"""Criteria by name, each with its default options."""

DATA_FREE = frozenset({"magnitude", "magnitude-l1", "lamp", "bn-scale", "random", "data-free"})
"""Criteria that run nothing, and so need no calibration inputs."""

__all__ = ["CRITERIA", "DATA_FREE", "Checked", "Criterion", "Scores", "find", "normalized"]


def find(criterion: str | Criterion) -> Checked:
    """A criterion by name, or the user's own function; what it returns is checked.

    Raises:
        UsageError: no criterion has that name, with the nearest that has, or the value cannot be called.

    >>> find("magnitude").name
    'magnitude'
    >>> find("magnitud")
    Traceback (most recent call last):
    tersor.errors.UsageError: unknown importance 'magnitud'; did you mean 'magnitude'?
    """
    if isinstance(criterion, Checked):
        return criterion
    if not isinstance(criterion, str):
        if not callable(criterion):
            raise UsageError(f"importance {criterion!r} cannot be called", f"give one of {', '.join(CRITERIA)}")
        return Checked(getattr(criterion, "__name__", type(criterion).__name__), criterion)
    if criterion not in CRITERIA:
        near = get_close_matches(criterion, CRITERIA, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(CRITERIA)}"
        raise UsageError(f"unknown importance {criterion!r}", hint)
    return Checked(criterion, CRITERIA[criterion])
