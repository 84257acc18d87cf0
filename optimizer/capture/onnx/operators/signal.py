"""Signal processing: window functions, Fourier transforms, and the mel weight matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from tersor.capture.onnx.dtypes import torch_dtype
from tersor.capture.onnx.operators.precision import as_type, at_least_single
from tersor.capture.onnx.registry import Node, operator
from tersor.capture.onnx.values import Opaque, Value, numbers


def _type(node: Node) -> torch.dtype:
    return torch_dtype(node.get("output_datatype", onnx.TensorProto.FLOAT))


def _cosine_window(node: Node, size: Value, terms: tuple[float, ...]) -> Tensor:
    (length,) = numbers(size, "the window length")
    period = length if node.get("periodic", 1) else length - 1
    angle = torch.arange(length, dtype=torch.float32) * (2 * math.pi) / period
    window = torch.full_like(angle, terms[0])
    for order, factor in enumerate(terms[1:], 1):
        window = window + factor * torch.cos(angle * order)
    return as_type(window, _type(node))


@operator("HannWindow", static=(0,))
def _hann(node: Node, size: Value) -> Tensor:
    return _cosine_window(node, size, (0.5, -0.5))


@operator("HammingWindow", static=(0,))
def _hamming(node: Node, size: Value) -> Tensor:
    return _cosine_window(node, size, (25 / 46, -21 / 46))


@operator("BlackmanWindow", static=(0,))
def _blackman(node: Node, size: Value) -> Tensor:
    return _cosine_window(node, size, (0.42, -0.5, 0.08))


def _complex(x: Tensor) -> Tensor:
    """The real or complex signal whose last dimension holds its parts, as a torch tensor."""
    wide = at_least_single(x)
    return torch.view_as_complex(wide.contiguous()) if x.shape[-1] == 2 else wide.squeeze(-1)


def _parts(y: Tensor, dtype: torch.dtype) -> Tensor:
    return as_type(torch.view_as_real(y), dtype) if y.is_complex() else as_type(y.unsqueeze(-1), dtype)


def _transform(node: Node, x: Tensor, length: Any, axis: int) -> Tensor:
    onesided, inverse = bool(node.get("onesided", 0)), bool(node.get("inverse", 0))
    signal = _complex(x)
    if onesided and inverse:
        return _parts(torch.fft.irfft(signal, length, axis), x.dtype)
    if onesided:
        return _parts(torch.fft.rfft(signal, length, axis), x.dtype)
    return _parts((torch.fft.ifft if inverse else torch.fft.fft)(signal, length, axis), x.dtype)


def _length(dft_length: Value | None) -> Any:
    return None if dft_length is None else numbers(dft_length, "the transform length")[0]


@operator("DFT", since=17, static=(1,))
def _dft_by_attribute(node: Node, x: Tensor, dft_length: Value | None = None) -> Tensor:
    return _transform(node, x, _length(dft_length), node.get("axis", 1) % x.dim())


@operator("DFT", since=20, static=(1, 2))
def _dft(node: Node, x: Tensor, dft_length: Value | None = None, axis: Value | None = None) -> Tensor:
    dim = -2 if axis is None else numbers(axis, "the axis")[0]
    return _transform(node, x, _length(dft_length), dim % x.dim())


@operator("STFT", static=(1, 3))
def _stft(
    node: Node, x: Tensor, frame_step: Value, window: Tensor | None = None, frame_length: Value | None = None
) -> Tensor:
    (step,) = numbers(frame_step, "the frame step")
    length = _length(frame_length)
    if length is None:
        length = x.shape[1] if window is None else window.shape[0]
    frames = _complex(x).unfold(1, length, step)
    if window is not None:
        frames = frames * window
    # torch has no one-sided transform of complex signals; the specification forbids it too.
    if node.get("onesided", 1) and not frames.is_complex():
        return _parts(torch.fft.rfft(frames), x.dtype)
    return _parts(torch.fft.fft(frames), x.dtype)


@operator("MelWeightMatrix", static=(0, 1, 2, 3, 4))
def _mel_weight_matrix(node: Node, *inputs: Value) -> Tensor:
    bins, length, rate, lowest, highest = (numbers(v, "an argument of the mel matrix")[0] for v in inputs)
    if not all(isinstance(v, int | float) for v in (bins, length, rate, lowest, highest)):
        raise Opaque("a mel matrix whose size depends on a shape")
    low, high = (2595 * math.log10(1 + f / 700) for f in (lowest, highest))
    mels = low + np.arange(bins + 2) * ((high - low) / (bins + 2))
    edges = ((length + 1) * (700 * (10 ** (mels / 2595) - 1)) // rate).astype(np.int64)
    start, peak, stop = edges[:-2], edges[1:-1], edges[2:]
    row = np.arange(length // 2 + 1)[:, None]
    rising = (row - start) / np.maximum(peak - start, 1)
    falling = (stop - row) / np.maximum(stop - peak, 1)
    matrix = np.where(row < peak, rising, falling).clip(0)
    matrix[peak, np.arange(bins)] = 1
    return torch.tensor(matrix.tolist(), dtype=_type(node))
