"""Merging tokens in captured graphs: as ToMe does it, exact where tokens are equal, and declined with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from tersor.capture import load
from tersor.context import Context
from tersor.errors import UsageError
from tersor.export import save_onnx
from tersor.models_zoo import catalog
from tersor.program import Program
from tersor.refresh import refresh
from tersor.rewrite_values import key
from tersor.spec import parse
from tests.tokens.models import BATCH, Encoder, Padded, Windows, paired_tables, pairs
from tests.tokens.tome_reference import Patch

LENGTH = torch.export.Dim("length", min=8, max=64)


def reduced(program: Program, spec: str, calibration: Any = None) -> tuple[Program, Context]:
    """A copy after the pass."""
    made = program.clone()
    context = Context(calibration=(program.inputs,) if calibration is None else calibration)
    for item in parse(spec):
        item(made, Context() if item.exact else context)
        refresh(made)
    return made, context


def program_of(model: nn.Module, *inputs: torch.Tensor, dynamic: Any = None) -> Program:
    dynamic = (BATCH,) * len(inputs) if dynamic is None else dynamic
    program = load(model.eval(), inputs, dynamic)
    for item in parse("canonicalize"):
        item(program, Context())
    return refresh(program)


def assert_same(program: Program, model: nn.Module, *inputs: torch.Tensor, tolerance: float = 1e-4) -> None:
    with torch.no_grad():
        torch.testing.assert_close(program(*inputs), model(*inputs), rtol=tolerance, atol=tolerance)


def assert_exports(program: Program, path: Path, *inputs: torch.Tensor) -> None:
    """ONNX Runtime gives what the program gives."""
    save_onnx(program, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    made = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
    for got, wanted in zip(made, program.run(inputs), strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=1e-5)


def reasons(context: Context) -> str:
    return "; ".join(site.detail for site in context.skipped)


@pytest.mark.parametrize(
    ("options", "model"),
    [
        ("", Encoder()),
        ("", Encoder(special=2)),
        ("", Encoder(read="mean", post=True)),
        ("", Encoder(special=0, read="picture")),
        ("", paired_tables(Encoder(bias="table"))),
        ("", paired_tables(Encoder(turn=True))),
        ("method=energy;", Encoder(read="all")),
        ("method=criteria;", Encoder()),
        ("around=true;", Encoder(read="all")),
    ],
    ids=lambda item: item if isinstance(item, str) else f"{item.count}-{item.read}",
)
def test_equal_tokens_merge_without_a_trace(options: str, model: Encoder, tmp_path: Path) -> None:
    x = pairs()
    program = program_of(model, x)
    layers = "" if "around" in options else "layers=0;"
    made, context = reduced(program, f"merge-tokens{{{options}{layers}r=6}}")
    assert context.taken, reasons(context)
    assert_same(made, model, x)
    lengths = {int(node.meta["val"].shape[-2]) for node in made.nodes if key(node) == "scaled_dot_product_attention"}
    assert 12 + model.count - 6 in lengths
    other = pairs(batch=3, seed=9)
    assert_same(made, model, other)
    assert_exports(made, tmp_path / "made.onnx", other)


@pytest.mark.parametrize("r", [2, 4])
def test_a_trained_vit_gives_the_logits_of_tome(r: int) -> None:
    entry = catalog.load("zoo:digits-vit")
    images = next(iter(entry.calibration))[0]  # type: ignore[index]
    made, context = reduced(load(entry.model, entry.inputs, entry.dynamic), f"canonicalize,merge-tokens{{r={r}}}")
    assert len(context.taken) >= 3, reasons(context)
    with torch.no_grad():
        torch.testing.assert_close(made(images), Patch(entry.model, [r] * 4)(images), rtol=1e-4, atol=1e-4)


def test_a_last_token_that_is_read_stays() -> None:
    model, x = Encoder(read="last"), pairs()
    made, context = reduced(program_of(model, x), "merge-tokens{layers=0;r=4}")
    assert context.taken, reasons(context)
    assert_same(made, model, x)


@pytest.mark.parametrize("boolean", [True, False])
def test_padding_merges_first_and_leaves_no_trace(boolean: bool, tmp_path: Path) -> None:
    model, x, mask = Padded(boolean), pairs(), torch.ones(2, 12)
    mask[:, 8:] = 0
    x[:, :8] += torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(5))
    made, context = reduced(program_of(model, x, mask), "merge-tokens{layers=0;r=2}", ((x, mask),))
    assert context.taken, reasons(context)
    assert_same(made, model, x, mask)
    mask[0, 6:] = 0
    assert_same(made, model, x, mask)
    assert_exports(made, tmp_path / "made.onnx", x, mask)


@pytest.mark.parametrize("padded", [True, False])
def test_lengths_that_change(padded: bool, tmp_path: Path) -> None:
    model: nn.Module = Padded() if padded else Encoder(read="mean")
    sizes = {**BATCH, 1: LENGTH}

    def inputs(count: int, real: int) -> tuple[torch.Tensor, ...]:
        mask = torch.arange(2 * count) < real
        return (pairs(3, count, seed=count), mask.float().expand(3, -1).clone())[: 1 + padded]

    first = inputs(6, 8)
    program = program_of(model, *first, dynamic=(sizes,) * len(first))
    made, context = reduced(program, "merge-tokens{layers=0;share=0.3}", (first,))
    assert context.taken, reasons(context)
    for other in (first, inputs(10, 14), inputs(9, 18)):
        assert_same(made, model, *other)
    assert_exports(made, tmp_path / "made.onnx", *inputs(10, 14))


def test_windows_merge_inside_and_are_joined_whole() -> None:
    model = Windows()
    x = torch.randn(2, 8, 4, 16, generator=torch.Generator().manual_seed(0)).repeat_interleave(2, dim=2)
    made, context = reduced(program_of(model, x), "merge-tokens{r=6}")
    assert context.taken, reasons(context)
    assert_same(made, model, x)


def test_causal_attention_is_declined() -> None:
    _, context = reduced(program_of(Encoder(causal=True), pairs()), "merge-tokens{r=2}")
    assert not context.taken and "see only earlier ones cannot be merged" in reasons(context)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("merge-tokens{r=-1}", "wanted 0 or a number"),
        ("merge-tokens{share=1.5}", "wanted a share"),
        ("merge-tokens{method=grid}", "around=true"),
        ("merge-tokens{r=3;schedule=early}", "give a share"),
        ("merge-tokens{layers=a-b}", "wanted numbers"),
        ("merge-tokens{method=best}", "method"),
    ],
)
def test_bad_options(text: str, wanted: str) -> None:
    with pytest.raises(UsageError, match=wanted):
        parse(text)
