"""Fits how long each class of kernels takes, relative to its roofline, from the times of whole timm models.

Used by benchmarks/fit_cost.py and benchmarks/cost_model.py.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cost_graphs import DATA, table
from tersor.cost.classes import HIDDEN, seconds_by_class
from tersor.cost.launches import Launch
from tersor.target import Target, named

Numbers = NDArray[np.float64]
I9 = Target(
    "i9-10940x", threads=14, rates={"float32": 1.3e12}, bandwidth=94e9, cache=19.25e6, units=14,
    source="Intel Core i9-10940X data sheet: 14 cores, 3.0 GHz with AVX-512, four channels of DDR4-2933",
)  # fmt: skip
SETUPS: dict[str, tuple[str, str, str | Target]] = {
    "rtx3090 eager": ("infer-amp-nchw-pt240-cu124-rtx3090", "eager-amp", "rtx3090"),
    "rtx4090 eager": ("infer-amp-nchw-pt240-cu124-rtx4090", "eager-amp", "rtx4090"),
    "rtx3090 channels last": ("infer-amp-nhwc-pt240-cu124-rtx3090", "eager-amp", "rtx3090"),
    "rtx4090 channels last": ("infer-amp-nhwc-pt240-cu124-rtx4090", "eager-amp", "rtx4090"),
    "rtx4090 Inductor": ("infer-amp-nchw-pt240-cu124-rtx4090-dynamo", "inductor-amp", "rtx4090"),
    "i9-10940x Inductor": ("infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo", "inductor-float32", I9),
}
"""The timm table, which launches, and the device."""
REGIMES = {
    "cuda eager": ("rtx3090 eager", "rtx4090 eager"),
    "cuda compiled": ("rtx4090 Inductor",),
    "cpu compiled": ("i9-10940x Inductor",),
}
"""What the package predicts with which tables."""
_FIELDS = [field.name for field in dataclasses.fields(Launch) if field.name != "nodes"]
_LAUNCH_SECONDS = 3e-6
_USUAL = 0.6
"""By how much more than the roofline a class takes of which the models say little."""


@dataclass(frozen=True)
class Models:
    """Models of one setup: seconds of the roofline in each class [models, classes], measured seconds of one run."""

    names: list[str]
    classes: list[str]
    roofline: Numbers
    seconds: Numbers
    batch: Numbers
    facts: Numbers
    """Operations, activations and parameters as timm counts them."""

    def only(self, chosen: NDArray[np.bool_]) -> Models:
        """The chosen models."""
        names = [name for name, taken in zip(self.names, chosen, strict=True) if taken]
        return Models(
            names, self.classes, self.roofline[chosen], self.seconds[chosen], self.batch[chosen], self.facts[chosen]
        )

    def least(self) -> Numbers:
        """The roofline of each model."""
        counted = [float(_counts(name)) for name in self.classes]
        return np.asarray(self.roofline @ np.array(counted))


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The launches of every model that was recorded."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
    return found


def models(setup: str, graphs: dict[str, dict[str, Any]]) -> Models:
    """The models of one table that were recorded at the size that the table says."""
    name, variant, device = SETUPS[setup]
    target = named(device)
    measured = table(DATA / f"benchmark-{name}.csv")
    used = [
        model for model in graphs if model in measured and measured[model]["infer_img_size"] == graphs[model]["size"]
    ]
    sums = []
    for model in used:
        factor = measured[model]["infer_batch_size"] / graphs[model]["batch"]
        sums.append(seconds_by_class((launch.scaled(factor) for launch in launches_of(graphs[model][variant])), target))
    classes = sorted({key for one in sums for key in one})
    facts = [
        [measured[model].get(key, 1e-3) for key in ("infer_gmacs", "infer_macts", "param_count")] for model in used
    ]
    return Models(
        used,
        classes,
        np.array([[one.get(key, 0.0) for key in classes] for one in sums]),
        np.array([measured[model]["infer_step_time"] / 1e3 for model in used]),
        np.array([measured[model]["infer_batch_size"] for model in used]),
        np.maximum(np.array(facts), 1e-3),
    )


def launches_of(rows: Sequence[Sequence[Any]]) -> list[Launch]:
    """Launches from the file that benchmarks/cost_graphs.py writes."""
    return [Launch(nodes=(), **dict(zip(_FIELDS, row, strict=True))) for row in rows]


def fit(data: Models, strength: float = 0.02, rounds: int = 8) -> dict[str, float]:
    """Slowdown of each class over its roofline, at least 1; hidden time counts from 0, a launch in seconds.

    Non-negative least squares of relative errors, reweighted towards absolute ones, drawn a little to a usual slowdown.
    """
    from scipy.optimize import nnls

    counted = np.array([float(_counts(name)) for name in data.classes])
    scale = np.array([_LAUNCH_SECONDS if name == "launch" else 1.0 for name in data.classes])
    pull = np.sqrt(strength * len(data.names) / 100) * np.eye(len(scale))
    weights = 1 / data.seconds
    found = counted
    for _ in range(rounds):
        rows = np.vstack([data.roofline * scale * weights[:, None], pull])
        wanted = np.concatenate([(data.seconds - data.roofline @ counted) * weights, pull @ (_USUAL * counted)])
        extra, _ = nnls(rows, wanted, maxiter=20_000)
        found = counted + extra * scale
        error = np.abs(data.roofline @ found / data.seconds - 1)
        weights = 1 / data.seconds / np.sqrt(np.maximum(error, 0.05))
    return dict(zip(data.classes, found.tolist(), strict=True))


def predict(slowdown: dict[str, float], data: Models) -> Numbers:
    """Seconds of one run of each model."""
    usual = {name: (1 + _USUAL) * _counts(name) for name in data.classes}
    return np.asarray(data.roofline @ np.array([slowdown.get(name, usual[name]) for name in data.classes]))


def family(name: str) -> str:
    """The architecture that a timm name begins with: ``resnetv2`` of ``resnetv2_50x1_bit``.

    >>> family("vit_base_patch16_224"), family("resnet50d")
    ('vit', 'resnet')
    """
    return re.split(r"[_\d]", name)[0]


def halves(names: Sequence[str], seed: int = 0) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two sets of models that share no family."""
    families = sorted({family(name) for name in names})
    np.random.default_rng(seed).shuffle(families)
    first = set(families[::2])
    chosen = np.array([family(name) in first for name in names])
    return chosen, ~chosen


def across_families(data: Models, seeds: int = 3) -> list[Numbers]:
    """Predicted over measured seconds of each model, fitted on families that it does not belong to, for each seed."""
    found = []
    for seed in range(seeds):
        ratio = np.empty(len(data.names))
        for one in halves(data.names, seed):
            ratio[~one] = predict(fit(data.only(one)), data.only(~one)) / data.seconds[~one]
        found.append(ratio)
    return found


def coefficients(folder: Path) -> dict[str, Any]:
    """What the package keeps: slowdowns by class and intervals, for each regime."""
    graphs, made = read(folder), {}
    for regime, setups in REGIMES.items():
        parts = [models(setup, graphs) for setup in setups]
        ratios = np.concatenate([ratio for part in parts for ratio in across_families(part)])
        made[regime] = {
            "tables": list(setups),
            "models": sum(len(part.names) for part in parts),
            "slowdown": fit(joined(parts)),
            "interval": [float(np.quantile(1 / ratios, 0.05)), float(np.quantile(1 / ratios, 0.95))],
        }
    return made


def joined(parts: Sequence[Models]) -> Models:
    """Models of several setups as one set."""
    classes = sorted({name for part in parts for name in part.classes})
    wide = []
    for part in parts:
        where = [classes.index(name) for name in part.classes]
        rows = np.zeros((len(part.names), len(classes)))
        rows[:, where] = part.roofline
        wide.append(rows)
    return Models(
        [name for part in parts for name in part.names],
        classes,
        np.vstack(wide),
        np.concatenate([part.seconds for part in parts]),
        np.concatenate([part.batch for part in parts]),
        np.vstack([part.facts for part in parts]),
    )


def _counts(name: str) -> bool:
    """Whether a class is a part of the roofline, rather than hidden behind it or a number of launches."""
    return name != "launch" and not name.endswith(HIDDEN)
