"""Sample calls of recurrent layers."""

from __future__ import annotations

from typing import Any

import torch

from tests.axes.one_node import row
from tests.axes.rows.samples import r

A = torch.ops.aten


def _weights(gates: int, sizes: tuple[int, int], layers: int, directions: int, biases: bool, shown: int = 0) -> Any:
    width, hidden = sizes
    made = []
    for layer in range(layers):
        for _ in range(directions):
            made += [
                r(gates * hidden, directions * (shown or hidden) if layer else width),
                r(gates * hidden, shown or hidden),
            ]
            made += [r(gates * hidden), r(gates * hidden)] if biases else []
            made += [r(shown, hidden)] if shown else []
    return made


ROWS = [
    row(A.lstm.input, r(5, 2, 3), [r(1, 2, 4), r(1, 2, 4)], _weights(4, (3, 4), 1, 1, True), True, 1, 0.0, False,
        False, False, free=3),
    row(A.lstm.input, r(2, 5, 3), [r(4, 2, 4), r(4, 2, 4)], _weights(4, (3, 4), 2, 2, True), True, 2, 0.0, False,
        True, True, free=3),
    row(A.lstm.input, r(5, 2, 3), [r(2, 2, 2), r(2, 2, 4)], _weights(4, (3, 4), 2, 1, True, 2), True, 2, 0.0, False,
        False, False, free=4),
    row(A.gru.input, r(2, 5, 3), r(2, 2, 4), _weights(3, (3, 4), 2, 1, True), True, 2, 0.0, False, False, True, free=3),
    row(A.gru.input, r(5, 2, 3), r(2, 2, 4), _weights(3, (3, 4), 1, 2, False), False, 1, 0.0, False, True, False,
        free=3),
    row(A.rnn_tanh.input, r(5, 2, 3), r(1, 2, 4), _weights(1, (3, 4), 1, 1, True), True, 1, 0.0, False, False, False,
        free=3),
    row(A.rnn_relu.input, r(5, 2, 3), r(1, 2, 4), _weights(1, (3, 4), 1, 1, True), True, 1, 0.0, False, False, False,
        free=3),
]  # fmt: skip
