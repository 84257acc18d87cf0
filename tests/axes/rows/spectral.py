"""Sample calls of Fourier transforms and of complex numbers."""

from __future__ import annotations

import torch

from tests.axes.one_node import row
from tests.axes.rows.samples import p, r

A = torch.ops.aten


def c(*shape: int) -> torch.Tensor:
    return torch.complex(r(*shape), r(*shape))


REAL = [A.fft_rfft, A.fft_ihfft]
COMPLEX = [A.fft_fft, A.fft_ifft, A.fft_irfft, A.fft_hfft]
TWO = [A.fft_fft2, A.fft_ifft2, A.fft_irfft2]
MANY = [A.fft_fftn, A.fft_ifftn, A.fft_irfftn]

ROWS = [
    *(row(op.default, r(2, 4, 3), None, 1, free=2) for op in REAL),
    *(row(op.default, c(2, 4, 3), None, 1, free=2) for op in COMPLEX),
    *(row(op.default, c(2, 4, 4), free=1) for op in TWO),
    *(row(op.default, c(2, 4, 4), None, [1], free=2) for op in MANY),
    row(A.fft_fftn.default, c(2, 3), free=0),
    row(A.fft_rfft2.default, r(2, 4, 4), free=1),
    row(A.fft_rfftn.default, r(2, 4, 4), None, [0], free=2),
    row(A._fft_r2c.default, r(2, 4), [1], 0, True, free=1),
    row(A._fft_c2r.default, c(2, 3), [1], 0, 4, free=1),
    row(A._fft_c2c.default, c(2, 3), [1], 0, True, free=1),
    row(A.fft_fftshift.default, r(2, 4), [1], free=1),
    row(A.fft_ifftshift.default, r(2, 4), [1], free=1),
    row(A.view_as_complex.default, r(2, 3, 2), free=2),
    row(A.view_as_real.default, c(2, 3), free=2),
    row(A.complex.default, r(2, 3), r(2, 3), free=2),
    row(A.polar.default, p(2, 3), r(2, 3), free=2),
    *(row(op.default, c(2, 3), free=2) for op in (A.real, A.imag, A.conj, A._conj, A._conj_physical, A.angle)),
    row(A.resolve_conj.default, c(2, 3), free=2),
    row(A.resolve_neg.default, c(2, 3), free=2),
    row(A.stft.default, r(2, 16), 4, None, None, None, False, True, True, free=0),
    row(A.istft.default, c(2, 3, 9), 4, free=0),
]  # fmt: skip
