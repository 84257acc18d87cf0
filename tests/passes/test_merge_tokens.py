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
from tersor.program import Program
from tersor.refresh import refresh
from tersor.rewrite_values import key
from tersor.spec import parse
from tests.tokens.models import BATCH, Encoder, pairs

LENGTH = torch.export.Dim("length", min=2, max=64)


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
