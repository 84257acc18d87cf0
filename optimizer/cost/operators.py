"""ATen operators by the kind of work they do, where their shapes do not say it."""

from __future__ import annotations

UNCOUNTED = ("linalg_", "_linalg", "fft_", "_fft", "cdist", "_cdist", "_native_multi_head_attention", "stft", "istft")
"""Prefixes of operators whose work no closed formula here covers."""

ALIASES = frozenset(
    (
        "view", "reshape", "_unsafe_view", "view_as", "permute", "transpose", "t", "mT", "numpy_T", "movedim",
        "swapaxes", "expand", "expand_as", "slice", "select", "squeeze", "unsqueeze", "flatten", "unflatten", "unbind",
        "chunk", "split", "split_with_sizes", "tensor_split", "narrow", "diagonal", "alias", "detach", "broadcast_to",
        "as_strided", "dropout", "feature_dropout", "alpha_dropout", "sym_size", "sym_numel", "sym_stride",
        "_assert_tensor_metadata", "_assert_scalar", "_assert_async",
    )
)  # fmt: skip
"""Operators that show the same memory in another shape, or nothing at all."""

MOVES_DATA = ALIASES | frozenset(
    (
        "detach_", "clone", "contiguous", "copy", "lift_fresh_copy", "to", "_to_copy", "type_as", "cat", "stack",
        "concat", "hstack", "vstack", "repeat", "repeat_interleave", "tile", "roll", "flip", "rot90", "pad",
        "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d",
        "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "unfold", "im2col",
        "embedding", "index", "index_select", "gather", "take", "take_along_dim", "index_put", "index_copy",
        "select_scatter", "slice_scatter", "scatter", "full", "full_like", "zeros", "zeros_like", "ones", "ones_like",
        "empty", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty", "arange", "scalar_tensor", "eye",
        "linspace", "tril", "triu", "tril_indices", "triu_indices", "meshgrid", "broadcast_tensors", "one_hot",
        "nonzero", "item", "_local_scalar_dense", "resolve_conj", "resolve_neg", "view_as_real", "view_as_complex",
    )
)  # fmt: skip
"""Operators that move, look up, fill or measure, and do not compute."""

PERMUTES = frozenset(("permute", "transpose", "t", "mT", "numpy_T", "movedim", "swapaxes"))
"""Views that order memory anew where a runtime has no strides."""

SLICES = frozenset(
    (
        "slice", "select", "unbind", "chunk", "split", "split_with_sizes", "tensor_split", "narrow", "diagonal",
        "expand", "expand_as", "broadcast_to", "as_strided",
    )
)  # fmt: skip
"""Views that a runtime without strides copies."""

FUNCTIONS = frozenset(
    (
        "sigmoid", "silu", "gelu", "tanh", "erf", "exp", "log", "sin", "cos", "pow", "softplus", "mish", "elu", "selu",
        "celu", "log1p", "expm1", "logit", "log_sigmoid", "atan", "rsqrt",
    )
)  # fmt: skip
"""Elementwise operators that evaluate a function rather than add or multiply."""
