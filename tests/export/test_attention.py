"""Scaled-dot-product attention through the export, against eager PyTorch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.capture.torch import capture_module
from tests.export.models import BATCH, Apply, Each, captured, exported, operators


def attend(x: torch.Tensor, **options: Any) -> torch.Tensor:
    heads = x.reshape(x.shape[0], -1, 3, 4, 8).permute(2, 0, 3, 1, 4)
    q, k, v = heads.unbind(0)
    return F.scaled_dot_product_attention(q, k, v, **options)


def by_length(x: torch.Tensor, **options: Any) -> torch.Tensor:
    q = x.reshape(x.shape[0], x.shape[1], 12, 8).transpose(1, 2)[:, :4]
    return F.scaled_dot_product_attention(q, q, q, **options)


def grouped(x: torch.Tensor, causal: bool) -> torch.Tensor:
    q = x.reshape(x.shape[0], x.shape[1], 12, 8).transpose(1, 2)
    k = x[..., :32].reshape(x.shape[0], x.shape[1], 4, 8).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, k, is_causal=causal, enable_gqa=True)


MASKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"scale": 0.3},
    "causal": {"is_causal": True},
    "float mask": {"attn_mask": torch.randn(6, 6, generator=torch.Generator().manual_seed(0))},
    # In the last row nothing may be seen: ATen returns zeros.
    "bool mask": {"attn_mask": torch.tensor([[True] * 6] * 5 + [[False] * 6])},
}


@pytest.mark.parametrize("opset", [18, 23])
def test_masks(opset):
    functions: dict[str, Callable[..., Any]] = {name: partial(attend, **options) for name, options in MASKS.items()}
    functions["three axes"] = lambda x: F.scaled_dot_product_attention(x, x, x)
    functions["grouped"] = lambda x: grouped(x, False)
    functions["grouped causal"] = lambda x: grouped(x, True)
    found = operators(exported(captured(Each(functions), 2, 6, 96), opset))
    assert found["Attention"] == (6 if opset == 23 else 0)
    assert found["Expand"] == 0


class Padded(nn.Module):
    """Two layers under one mask of real tokens."""

    def forward(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        mask = real[:, None, None, :]
        inner = attend(x, attn_mask=mask).transpose(1, 2).reshape(x.shape[0], 6, 32)
        return attend(torch.cat([inner] * 3, dim=-1), attn_mask=mask)


def test_layers_share_what_a_mask_of_padding_needs():
    real = torch.tensor([[True] * 4 + [False] * 2, [False] * 6])
    found = operators(exported(capture_module(Padded().eval(), (torch.randn(2, 6, 96), real))))
    assert found["IsNaN"] == 0 and found["ReduceMax"] == 1 and found["Where"] == 3


def test_a_constant_mask_that_hides_no_row_is_an_addition():
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    found = operators(exported(captured(partial(attend, attn_mask=mask), 2, 6, 96)))
    assert found["Where"] == 0 and found["ReduceMax"] == 0


def test_attention_stays_decomposed_where_asked():
    assert "Attention" not in operators(exported(captured(attend, 2, 6, 96), 23, keep_attention=False))


def test_a_dynamic_length():
    length = torch.export.Dim("length", min=2)
    model = Apply(lambda x: by_length(x, is_causal=True) + grouped(x, True)[:, :4]).eval()
    exported(capture_module(model, (torch.randn(2, 5, 96),), ({0: BATCH, 1: length},)))


def test_qkv_of_a_vision_transformer_needs_no_shape_arithmetic():
    found = operators(exported(captured(attend, 2, 6, 96)))
    assert found == {"Reshape": 1, "Transpose": 2, "Gather": 3, "Mul": 1, "MatMul": 2, "Softmax": 1}
