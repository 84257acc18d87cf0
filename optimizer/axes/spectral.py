"""Flow through Fourier transforms and complex numbers: what is transformed is fixed, the rest passes."""

from __future__ import annotations

from torch import fx

from tersor.axes.elementwise import elementwise
from tersor.axes.flow import Flow, Value, fresh, rule, shape, where
from tersor.axes.terms import pin
from tersor.rewrite_values import arguments, fake

_ONE = ("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_hfft", "fft_ihfft")
_SOME = ("fft_fft2", "fft_ifft2", "fft_rfft2", "fft_irfft2", "fft_fftn", "fft_ifftn", "fft_rfftn", "fft_irfftn",
         "_fft_r2c", "_fft_c2r", "_fft_c2c", "fft_fftshift", "fft_ifftshift")  # fmt: skip


@rule(*_ONE, *_SOME)
def transformed(node: fx.Node, flow: Flow) -> Value:
    """Every value along the transformed dimensions depends on all of them."""
    source, reason = flow.dims(node.args[0]), where(node, "a Fourier transform")
    dims = arguments(node).get("dim")
    along = range(len(source)) if dims is None else [dims] if isinstance(dims, int) else dims
    made = list(source)
    for dim in along:
        pin(source[dim], reason)
        made[dim] = fresh(shape(fake(node))[dim], reason)
    return tuple(made)


@rule("view_as_complex")
def as_complex(node: fx.Node, flow: Flow) -> Value:
    """The last dimension holds real and imaginary part."""
    source = flow.dims(node.args[0])
    pin(source[-1], where(node, "real and imaginary part"))
    return source[:-1]


@rule("view_as_real")
def as_real(node: fx.Node, flow: Flow) -> Value:
    """A new last dimension holds real and imaginary part."""
    return (*flow.dims(node.args[0]), fresh(2, where(node, "real and imaginary part")))


@rule("complex", "polar", "real", "imag", "conj", "_conj", "_conj_physical", "resolve_conj", "resolve_neg", "angle")
def parts(node: fx.Node, flow: Flow) -> Value:
    """Number by number."""
    return elementwise(node, flow)


@rule("stft", "istft")
def windowed(node: fx.Node, flow: Flow) -> Value:
    """Transforms of stretches of a signal."""
    return flow.fixed(node, where(node, "a Fourier transform"))
