"""Fits the efficiencies of the cost model and writes them as coefficients into the package.

Run: python benchmarks/fit_cost.py [--graphs FOLDER] [--skip-kernels] [--write]
FOLDER holds the launches of timm models, as benchmarks/cost_graphs.py writes them. The tables are read from
../shared/data and are no part of the project; the coefficients are.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tersor.cost.features import features, reachable
from tersor.cost.launches import Launch
from tersor.cost.regressors import evaluate
from tersor.target import Target, named

Numbers = NDArray[np.float64]
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "neusight_kernels"
PACKAGE = Path(__file__).resolve().parent.parent / "optimizer" / "cost"
DEVICES = {
    "NVIDIA A100-PCIE-40GB": "a100-40", "NVIDIA A100 80GB PCIe": "a100-80-pcie", "Tesla P100-PCIE-16GB": "p100",
    "Tesla P4": "p4", "Tesla T4": "t4", "Tesla V100-PCIE-32GB": "v100-pcie",
}  # fmt: skip
TABLES = {"linear": "linear", "bmm": "bmm", "elementwise": "elem", "softmax": "softmax", "norm": "ln", "conv": "conv"}
_TWO_OPERANDS = ("add", "div", "mul", "pow")


@dataclass(frozen=True)
class Measured:
    """Kernels of one kind: features [rows, features], seconds, reachable roofline, device of each row."""

    kind: str
    features: Numbers
    seconds: Numbers
    base: Numbers
    device: NDArray[np.str_]

    def only(self, chosen: NDArray[np.bool_]) -> Measured:
        """The chosen rows."""
        return Measured(self.kind, self.features[chosen], self.seconds[chosen], self.base[chosen], self.device[chosen])


def kernels(kind: str) -> Measured:
    """One table of measured kernels."""
    rows, seconds, base, device = [], [], [], []
    sheets = {name: named(known) for name, known in DEVICES.items()}
    with (DATA / f"{TABLES[kind]}.csv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            launch, target = launch_of(kind, row), sheets[row["device"]]
            rows.append(features(launch, target))
            base.append(reachable(launch, target))
            seconds.append(float(row["latency_ms"]) / 1e3)
            device.append(DEVICES[row["device"]])
    return Measured(kind, np.array(rows), np.array(seconds), np.array(base), np.array(device))


def launch_of(kind: str, row: dict[str, str]) -> Launch:
    """What a row of a table did, in float32."""
    if kind == "conv":
        return _convolution({key: int(value) for key, value in row.items() if value.isdigit()})
    if kind in ("linear", "bmm"):
        groups, m, n, k = (int(row[key]) for key in ("batch", "m", "n", "k"))
        if kind == "linear":
            m, groups = m * groups, 1
        moved, weights = 4.0 * groups * (m * k + m * n), 4.0 * groups * n * k
        if kind == "bmm":
            moved, weights = moved + weights, 0.0
        return Launch(kind, (kind,), "float32", 2.0 * groups * m * n * k, moved, weights, groups, m, n, k)
    rows, columns = int(row["rows"]), int(row["cols"])
    operands = 3 if row["op"] in _TWO_OPERANDS else 2
    return Launch(kind, (kind,), "float32", moved=4.0 * operands * rows * columns, m=rows, n=columns)


def _convolution(row: dict[str, int]) -> Launch:
    images, inputs, outputs, side, kernel = (
        row[key] for key in ("batch", "in_channels", "out_channels", "input_size", "kernel_size")
    )
    out = (side + 2 * row["padding"] - kernel) // row["stride"] + 1
    m, k = images * out * out, inputs * kernel**2
    moved, weights = 4.0 * (images * inputs * side**2 + m * outputs), 4.0 * outputs * k
    return Launch(
        "conv", ("conv",), "float32", 2.0 * m * outputs * k, moved, weights, 1, m, outputs, k, kernel**2,
        row["stride"], images,
    )  # fmt: skip


Fitter = Callable[[Numbers, Numbers, Numbers], dict[str, Any]]


def curves(knots: int = 4, strength: float = 1.0) -> Fitter:
    """One piecewise-linear curve per feature: ridge regression on hat functions, reweighted towards the median."""

    def fit(rows: Numbers, wanted: Numbers, weights: Numbers) -> dict[str, Any]:
        from sklearn.linear_model import Ridge

        places = [np.linspace(column.min(), column.max() + 1e-9, knots) for column in rows.T]
        hats = np.hstack(
            [
                np.stack([np.interp(column, place, row) for row in np.eye(knots)], axis=1)
                for column, place in zip(rows.T, places, strict=True)
            ]
        )
        current = weights
        for _ in range(4):
            model = Ridge(alpha=strength).fit(hats, wanted, sample_weight=current)
            current = weights / np.maximum(np.abs(wanted - model.predict(hats)), 0.05)
        values = model.coef_.reshape(len(places), knots)
        return {
            "form": "curves",
            "start": float(model.intercept_),
            "curves": [
                {"knots": place.tolist(), "values": value.tolist()} for place, value in zip(places, values, strict=True)
            ],
        }

    return fit


def trees(count: int = 60, leaves: int = 8) -> Fitter:
    """Boosted trees of a few leaves each."""

    def fit(rows: Numbers, wanted: Numbers, weights: Numbers) -> dict[str, Any]:
        from sklearn.ensemble import HistGradientBoostingRegressor

        model = HistGradientBoostingRegressor(
            max_iter=count, max_leaf_nodes=leaves, learning_rate=0.1, min_samples_leaf=20, random_state=0
        ).fit(rows, wanted, sample_weight=weights)
        return {
            "form": "trees",
            "start": float(np.ravel(model._baseline_prediction)[0]),
            "trees": [_nodes(predictors[0].nodes) for predictors in model._predictors],
        }

    return fit


def _nodes(nodes: Any) -> list[list[float]]:
    return [
        [-1, 0, 0, 0, round(float(node["value"]), 5)]
        if node["is_leaf"]
        else [
            int(node["feature_idx"]),
            round(float(node["num_threshold"]), 5),
            int(node["left"]),
            int(node["right"]),
            0,
        ]
        for node in nodes
    ]


FITTERS: dict[str, Fitter] = {
    "linear": curves(), "elementwise": curves(), "softmax": curves(), "norm": trees(40), "bmm": trees(60),
    "conv": trees(150),
}  # fmt: skip
BY_MEMORY = ("elementwise", "norm")
"""Kinds whose level differs between boards whose error correction takes bandwidth and the others."""


def fit(data: Measured, rounds: int = 2) -> dict[str, Any]:
    """A shape that all devices share, and a level for each: every device weighs the same, the level is the median."""
    wanted = np.log(data.seconds / data.base)
    devices = sorted(set(data.device))
    weights = sum((data.device == name) * (len(wanted) / np.sum(data.device == name)) for name in devices)
    weights = np.asarray(weights, dtype=np.float64) / np.mean(weights)
    levels = {name: float(np.median(wanted[data.device == name])) for name in devices}
    model: dict[str, Any] = {}
    for _ in range(rounds):
        offset = np.array([levels[name] for name in data.device])
        model = FITTERS[data.kind](data.features, wanted - offset, weights)
        rest = wanted - evaluate(model, data.features.tolist())
        levels = {name: float(np.median(rest[data.device == name])) for name in devices}
    corrected = {corrects(named(name)): [] for name in devices} if data.kind in BY_MEMORY else {}
    for name in devices if corrected else ():
        corrected[corrects(named(name))].append(levels[name])
    return {
        **model,
        "level": float(np.median(list(levels.values()))),
        "levels": {key: float(np.median(values)) for key, values in corrected.items()},
    }


def corrects(target: Target) -> str:
    """Whether error correction takes a part of the memory's bandwidth."""
    return "corrected" if "ECC" in target.memory_type else "plain"


def predict(model: dict[str, Any], data: Measured) -> Numbers:
    """Seconds of kernels."""
    level = np.array([model["levels"].get(corrects(named(name)), model["level"]) for name in data.device])
    return np.asarray(data.base * np.exp(evaluate(model, data.features.tolist()) + level))


def leave_one_out(data: Measured) -> dict[str, Numbers]:
    """Predicted over measured seconds on each device, fitted on the others."""
    found = {}
    for name in sorted(set(data.device)):
        out = data.device == name
        found[name] = predict(fit(data.only(~out)), data.only(out)) / data.seconds[out]
    return found


def interval(ratios: Sequence[Numbers]) -> tuple[float, float]:
    """Factors on a prediction between which 90 % of the measurements lie, every device weighing the same."""
    low = float(np.mean([np.quantile(1 / ratio, 0.05) for ratio in ratios]))
    return low, float(np.mean([np.quantile(1 / ratio, 0.95) for ratio in ratios]))


def rounded(value: Any) -> Any:
    """Coefficients with the digits that matter."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=Path)
    parser.add_argument("--skip-kernels", action="store_true")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if not DATA.is_dir():
        print(f"the measured tables are not here ({DATA}): nothing to fit", file=sys.stderr)
        return 0
    made: dict[str, Any] = {}
    for kind in () if given.skip_kernels else TABLES:
        data = kernels(kind)
        ratios = leave_one_out(data)
        errors = {name: float(np.mean(np.abs(ratio - 1))) for name, ratio in ratios.items()}
        print(
            kind,
            f"{np.mean(list(errors.values())):.1%}",
            {name: f"{error:.1%}" for name, error in errors.items()},
            flush=True,
        )
        made[kind] = rounded({**fit(data), "interval": list(interval(list(ratios.values())))})
    if given.write and made:
        (PACKAGE / "kernels.json").write_text(json.dumps(made, separators=(",", ":")) + "\n", encoding="utf-8")
    if given.graphs:
        from benchmarks.fit_models import coefficients

        known = json.loads((PACKAGE / "models.json").read_text(encoding="utf-8"))
        models = {**known, **rounded(coefficients(given.graphs))}
        if given.write:
            (PACKAGE / "models.json").write_text(json.dumps(models, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
