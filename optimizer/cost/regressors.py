"""Evaluates fitted regressors from their coefficients: sums of piecewise-linear curves, and sums of small trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def evaluate(model: Mapping[str, Any], features: Sequence[Sequence[float]]) -> Numbers:
    """Predictions of one model for rows of features, [rows].

    Args:
        model: ``{"form": "curves", "start", "curves": [{"knots", "values"}]}`` with one curve per feature, constant
            outside its knots; or ``{"form": "trees", "start", "trees": [[feature, threshold, left, right, value]]}``
            where each tree is a list of nodes, a feature of -1 marks a leaf, and a row at the threshold goes left.
        features: rows in the order that the model was fitted on.

    >>> line = {"form": "curves", "start": 1.0, "curves": [{"knots": [0.0, 2.0], "values": [0.0, 4.0]}]}
    >>> evaluate(line, [[1.0], [5.0]]).tolist()
    [3.0, 5.0]
    """
    rows = np.asarray(features, dtype=np.float64)
    total = np.full(len(rows), float(model["start"]))
    if model["form"] == "curves":
        for column, curve in enumerate(model["curves"]):
            total += np.interp(rows[:, column], curve["knots"], curve["values"])
        return total
    for tree in model["trees"]:
        total += _tree(np.asarray(tree, dtype=np.float64), rows)
    return total


def _tree(nodes: Numbers, rows: Numbers) -> Numbers:
    where = np.zeros(len(rows), dtype=np.int64)
    every = np.arange(len(rows))
    while True:
        feature = nodes[where, 0].astype(np.int64)
        inner = feature >= 0
        if not inner.any():
            return nodes[where, 4]
        left = rows[every, np.maximum(feature, 0)] <= nodes[where, 1]
        step = np.where(left, nodes[where, 2], nodes[where, 3]).astype(np.int64)
        where = np.where(inner, step, where)
