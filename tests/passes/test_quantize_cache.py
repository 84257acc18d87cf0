"""Caches in few bits: judged with the interface as it is, stored as bytes, and the same again in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tersor
from tersor.capture.torch import capture_module
from tersor.context import Context
from tersor.errors import UsageError
from tersor.export import save_onnx
from tersor.passes.quantize_cache import QuantizeCache
from tersor.program import Program
from tersor.quant.caches import Stored, store
from tersor.refresh import refresh

HEADS, WIDTH = 2, 8
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return ((query @ keys.transpose(-1, -2)) * WIDTH**-0.5).softmax(-1) @ values


class Decoder(nn.Module):
    """One layer of attention with a cache; keys have two large channels, as those of language models do."""

    def __init__(self, attend: Attend = F.scaled_dot_product_attention) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project, self.out, self.attend = nn.Linear(16, 3 * HEADS * WIDTH), nn.Linear(16, 16), attend
        with torch.no_grad():
            self.project.bias[16:32:5] += 20

    def forward(self, x: Tensor, past_keys: Tensor, past_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States (N, 1, 16) and caches (N, heads, T, width) to states and caches of T + 1 tokens."""
        query, key, value = (
            part.view(part.shape[0], part.shape[1], HEADS, WIDTH).transpose(1, 2)
            for part in self.project(x).chunk(3, -1)
        )
        keys, values = torch.cat([past_keys, key], 2), torch.cat([past_values, value], 2)
        mixed = self.attend(query, keys, values).transpose(1, 2).flatten(2)
        return self.out(mixed), keys, values


def example(tokens: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(2, HEADS, tokens, WIDTH, generator=draw) for _ in range(2))
    keys[..., ::5] += 20
    return torch.randn(2, 1, 16, generator=draw), keys, values


def dynamic() -> tuple[Any, ...]:
    batch, past = torch.export.Dim("batch", max=64), torch.export.Dim("past", max=128)
    return ({0: batch}, {0: batch, 2: past}, {0: batch, 2: past})


def captured(model: nn.Module) -> Program:
    return refresh(capture_module(model.eval(), example(), dynamic()))


@pytest.fixture(scope="module")
def program() -> Program:
    return captured(Decoder())


def decoded(made: Stored, flat: tuple[Tensor, ...]) -> list[Tensor]:
    """What a program with stored caches makes of plain inputs, as plain outputs."""
    return taken_back(made, made.program.run([flat[0], *encoded(made, flat[1:])]))


def encoded(made: Stored, caches: tuple[Tensor, ...]) -> list[Tensor]:
    return [codec.encode(value) for codec, value in zip(made.inputs.values(), caches, strict=True)]


def taken_back(made: Stored, flat: Any) -> list[Tensor]:
    first, *rest = flat
    return [first, *(codec.decode(value) for codec, value in zip(made.outputs.values(), rest, strict=True))]


@pytest.mark.parametrize("attend", [F.scaled_dot_product_attention, plain])
def test_keys_and_values_are_told_apart(attend: Attend) -> None:
    context = Context()
    QuantizeCache()(captured(Decoder(attend)), context)
    assert [site.detail.split(":")[0] for site in context.taken] == [
        "keys in 8 bits by channel", "values in 8 bits by token",
    ]  # fmt: skip


@pytest.mark.parametrize(("bits", "most"), [(8, 0.02), (4, 0.3)])
def test_what_is_stored_is_what_was_judged(program: Program, bits: int, most: float) -> None:
    inputs = (example(7, seed=1), example(12, seed=2))
    judged, context = program.clone(), Context(calibration=inputs)
    QuantizeCache(bits)(judged, context)
    refresh(judged)
    made = store(program, bits, inputs)
    for flat in inputs:
        wanted, rounded = program.run(flat), judged.run(flat)
        torch.testing.assert_close(decoded(made, flat), list(rounded), rtol=1e-5, atol=1e-5)
        assert 0 < (rounded[0] - wanted[0]).norm() < most * wanted[0].norm()
    again = Context(calibration=inputs)
    QuantizeCache(bits)(judged, again)
    assert not again.taken and all("no output" in site.detail for site in again.skipped)


def test_tokens_one_after_another_stay_near_what_floating_point_gives(program: Program) -> None:
    made, flat = store(program, 8, [example(20, seed=seed) for seed in range(20, 28)]), example(4, seed=4)
    state: list[Tensor] = list(flat[1:])
    stored = encoded(made, flat[1:])
    assert [item.shape[-1] for item in stored] == [WIDTH, WIDTH + 2]
    for step in range(10):
        x = example(seed=step)[0]
        wanted, *state = program.run((x, *state))
        got, *stored = made.program.run((x, *stored))
        assert (got - wanted).norm() < 0.05 * wanted.norm()
    assert stored[0].shape == (2, HEADS, 14, WIDTH) and stored[0].dtype == torch.uint8


@pytest.mark.parametrize("bits", [8, 4])
def test_the_file_takes_and_gives_bytes_in_onnx_runtime(program: Program, bits: int, tmp_path: Path) -> None:
    import onnxruntime

    made, flat = store(program, bits, (example(9, seed=1),)), example(9, seed=1)
    session = onnxruntime.InferenceSession(save_onnx(made.program, tmp_path / "decoder.onnx"))
    assert [item.type for item in session.get_inputs()] == ["tensor(float)", "tensor(uint8)", "tensor(uint8)"]
    given = [flat[0], *encoded(made, flat[1:])]
    feed = {item.name: value.numpy() for item, value in zip(session.get_inputs(), given, strict=True)}
    got = [torch.from_numpy(item) for item in session.run(None, feed)]
    wanted = made.program.run(given)
    torch.testing.assert_close(got[0], wanted[0], rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(taken_back(made, wanted)[1:], taken_back(made, got)[1:], strict=True):
        assert (ours != theirs).double().mean() < 0.01


def test_the_budget_decides() -> None:
    options: dict[str, Any] = {"dynamic": dynamic(), "calibration": [example(seed=seed) for seed in range(8)]}
    options |= {"backend": "onnxruntime", "seconds": 0.0, "progress": False, "recover": "none"}
    for spec, budget, status in (("quantize-cache", 0.02, "kept"), ("quantize-cache{bits=4}", 1e-4, "dropped")):
        fast = tersor.optimize(Decoder().eval(), example(), passes=f"canonicalize,{spec}", budget=budget, **options)
        step = next(step for step in fast.report.steps if step.spec == spec)
        assert step.status == status, step.reason


def test_other_inputs_are_declined_with_reasons() -> None:
    class Others(nn.Module):
        def forward(self, x: Tensor, read: Tensor, kept: Tensor, unread: Tensor) -> tuple[Tensor, ...]:
            first, second, third = (torch.cat([item, x[:, None]], 1) for item in (read, kept, unread))
            return F.scaled_dot_product_attention(first, second, second) + read.mean(), first, third

    x, cache = torch.rand(2, 8), torch.rand(2, 3, 8)
    program = refresh(capture_module(Others().eval(), (x, cache, cache.clone(), cache.clone())))
    context = Context()
    QuantizeCache()(program, context)
    reasons = [site.detail for site in context.skipped]
    assert not context.taken and len(reasons) == 3
    for reason, wanted in zip(reasons, ("read by others", "is no output", "no attention"), strict=True):
        assert wanted in reason
    with pytest.raises(UsageError, match="no cache"):
        store(program)


def test_bits_are_checked() -> None:
    with pytest.raises(ValueError, match="bits is 3"):
        QuantizeCache(3)
