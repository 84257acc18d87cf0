"""Tokens of a picture inside a decoder, dropped (FastV) or frozen (ShortV), against the same done by hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersor.capture import load
from tersor.context import Context
from tersor.cost.flops import program_flops
from tersor.errors import RewriteError, UsageError
from tersor.models_zoo import catalog
from tersor.models_zoo.decoder import Layer, rotate_half
from tersor.models_zoo.llava import AFTER, BEFORE, VisionLanguage
from tersor.program import Program
from tersor.spec import parse
from tests.passes.test_merge_tokens import assert_exports, program_of, reasons, reduced
from tests.tokens.models import Encoder

PICTURE = slice(BEFORE, -AFTER)


@cache
def entry() -> Any:
    return catalog.load("zoo:llava")


@cache
def program() -> Program:
    """Captured once; `reduced` works on copies."""
    return program_of(entry().model, *entry().inputs)


def start(model: VisionLanguage, picture: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the decoder's layers get: tokens and angles."""
    patches = model.patch(picture).flatten(2).transpose(1, 2) + model.position
    for block in model.vision:
        patches = block(patches)
    x = torch.cat([model.words(before), model.projector(patches), model.words(after)], dim=1)
    return x, *model.rotary(x)


def logits(model: VisionLanguage, x: Tensor) -> Tensor:
    made: Tensor = model.head(model.norm(x)[:, -1])
    return made


def frozen_by_hand(layers: set[int]) -> Tensor:
    """Each layer does its work, and in some of them the tokens of the picture are then put back as they were."""
    model = entry().model
    with torch.no_grad():
        x, cosine, sine = start(model, *entry().inputs)
        for place, layer in enumerate(model.layers):
            made = layer(x, cosine, sine)
            if place in layers:
                made[:, PICTURE] = x[:, PICTURE]
            x = made
        return logits(model, x)


def weights_of_last(layer: Layer, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """[B, T]: what the last token attends to, averaged over heads."""
    inner, attention = layer.norm1(x), layer.attention
    batch, length, _ = x.shape
    query = attention.query(inner).view(batch, length, attention.heads, -1).transpose(1, 2)
    key = attention.repeat(attention.key(inner).view(batch, length, attention.shared, -1).transpose(1, 2))
    query, key = (item * cosine + rotate_half(item) * sine for item in (query, key))
    scores = query[:, :, -1:] @ key.transpose(-1, -2) * attention.head_width**-0.5
    return scores.softmax(-1)[:, :, 0].mean(1)


def dropped_by_hand(place: int, count: int) -> Tensor:
    """One sample after the other: behind the attention of one layer the least attended tokens of the picture go."""
    model, rows = entry().model, []
    with torch.no_grad():
        for sample in zip(*(item.split(1) for item in entry().inputs), strict=True):
            x, cosine, sine = start(model, *sample)
            for number, layer in enumerate(model.layers):
                if number != place:
                    x = layer(x, cosine, sine)
                    continue
                score = weights_of_last(layer, x, cosine, sine)[0]
                x = x + layer.attention(layer.norm1(x), cosine, sine)
                score[:BEFORE] = score[-AFTER:] = torch.inf
                kept = score.topk(len(score) - count).indices.sort().values
                x, cosine, sine = x[:, kept], cosine[kept], sine[kept]
                inner = layer.norm2(x)
                x = x + layer.down(F.silu(layer.gate(inner)) * layer.up(inner))
            rows.append(logits(model, x))
    return torch.cat(rows)


def test_what_the_last_word_passes_over_is_dropped(tmp_path: Path) -> None:
    made, context = reduced(program(), "prune-tokens{method=last;layers=1;r=40}")
    assert len(context.taken) == 1, reasons(context)
    torch.testing.assert_close(made(*entry().inputs), dropped_by_hand(1, 40), rtol=1e-4, atol=1e-4)
    assert_exports(made, tmp_path / "made.onnx", *entry().inputs)


def test_the_first_word_sees_nothing_to_judge_by() -> None:
    _, context = reduced(program(), "prune-tokens{method=class;layers=1;r=40}")
    assert not context.taken and "the first token does not see the others" in reasons(context)


@pytest.mark.parametrize("layers", ["0", "1-3"])
def test_the_picture_stands_still_in_some_layers(layers: str, tmp_path: Path) -> None:
    made, context = reduced(program(), f"freeze-tokens{{layers={layers}}}")
    places = {0} if layers == "0" else {1, 2, 3}
    assert len(context.taken) == len(places), reasons(context)
    torch.testing.assert_close(made(*entry().inputs), frozen_by_hand(places), rtol=1e-4, atol=1e-4)
    layer = program_flops(program()).products / len(entry().model.layers)
    assert program_flops(made).products < program_flops(program()).products - 0.5 * layer * len(places)
    assert_exports(made, tmp_path / "made.onnx", *entry().inputs)


def divergence_of(layer: int) -> float:
    wanted, made = frozen_by_hand(set()), frozen_by_hand({layer})
    return float(F.kl_div(made.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="batchmean"))


def test_the_layers_that_use_the_picture_least_are_found() -> None:
    made, context = reduced(program(), "freeze-tokens{share=0.4}")
    assert len(context.taken) == 2, reasons(context)
    least = sorted(range(5), key=divergence_of)[:2]
    torch.testing.assert_close(made(*entry().inputs), frozen_by_hand(set(least)), rtol=1e-4, atol=1e-4)


class Parallel(nn.Module):
    """Attention and MLP side by side over one norm, a mask as a tensor, words behind a picture, every token read."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(16, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))
        self.qkv = nn.ModuleList(nn.Linear(8, 24) for _ in range(3))
        self.out = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(3))

    def layer(self, place: int, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        inner = self.norms[place](x)
        query, key, value = self.qkv[place](inner).view(batch, length, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        scores = query @ key.transpose(-1, -2) * 0.5
        scores = scores.masked_fill(torch.ones(length, length).triu(1) == 1, -torch.inf)
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, 8)
        return x + self.out[place](mixed) + self.mlp[place](inner)

    def forward(self, picture: Tensor, words: Tensor) -> Tensor:
        x = torch.cat([picture, self.words(words)], dim=1)
        for place in range(3):
            x = self.layer(place, x)
        return x


def test_a_norm_that_keys_and_the_mlp_share_and_a_mask(tmp_path: Path) -> None:
    draws = torch.Generator().manual_seed(0)
    inputs = (torch.randn(2, 9, 8, generator=draws), torch.randint(0, 16, (2, 4), generator=draws))
    model = Parallel().eval()
    made, context = reduced(program_of(model, *inputs), "freeze-tokens{layers=1}")
    assert len(context.taken) == 1, reasons(context)
    with torch.no_grad():
        x = model.layer(0, torch.cat([inputs[0], model.words(inputs[1])], dim=1))
        moved = model.layer(1, x)
        moved[:, :9] = x[:, :9]
        torch.testing.assert_close(made(*inputs), model.layer(2, moved), rtol=1e-4, atol=1e-4)
    assert_exports(made, tmp_path / "made.onnx", *inputs)


def test_tokens_of_one_kind_are_declined() -> None:
    x = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))
    _, context = reduced(program_of(Encoder(special=0, read="mean"), x), "freeze-tokens")
    assert not context.taken and "all of one kind" in reasons(context)


def test_lengths_that_differ_are_declined() -> None:
    lm = catalog.load("zoo:decoder")
    context = Context()
    captured = load(lm.model, lm.inputs, lm.dynamic)
    for item in parse("freeze-tokens"):
        item(captured, context)
    assert not context.taken and "differs from call to call" in reasons(context)


@pytest.mark.parametrize("text", ["freeze-tokens{share=0}", "freeze-tokens{protect=-2}", "freeze-tokens{layers=x}"])
def test_bad_options(text: str) -> None:
    with pytest.raises(UsageError, match="wanted"):
        parse(text)


def test_an_error_is_no_half_done_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    from tersor.passes import freeze_tokens

    def fails(*args: Any) -> None:
        raise RewriteError("no")

    monkeypatch.setattr(freeze_tokens, "freeze", fails)
    made, context = reduced(program(), "freeze-tokens{layers=1}")
    assert not context.taken and "no" in reasons(context)
    torch.testing.assert_close(made(*entry().inputs), entry().model(*entry().inputs), rtol=1e-4, atol=1e-4)


def test_words_that_are_not_told_apart_can_be_counted() -> None:
    """Models that write a picture over placeholders have one sequence."""
    model, x = Encoder(special=0, read="last", causal=True).eval(), torch.randn(2, 12, 8)
    made, context = reduced(program_of(model, x), "freeze-tokens{layers=1;protect=2+3}")
    assert len(context.taken) == 1, reasons(context)
    with torch.no_grad():
        inner = model.blocks[0](model.enter(x), causal=True)
        moved = model.blocks[1](inner, causal=True)
        moved[:, 2:-3] = inner[:, 2:-3]
        for block in model.blocks[2:]:
            moved = block(moved, causal=True)
        torch.testing.assert_close(made(x), model.head(model.norm(moved)[:, -1]), rtol=1e-4, atol=1e-4)
