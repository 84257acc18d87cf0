"""Weights in few bits: what is lost, what is exact, and what is declined."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from tersor.context import Context
from tersor.errors import UsageError
from tersor.passes.quantize_weights import QuantizeWeights
from tersor.program import Program
from tersor.refresh import refresh
from tersor.rewrite_values import key
from tersor.spec import parse, render
from tests.factor.zoo import details, seeded, trained
from tests.passes.harness import captured, operators, reasons

GROUP = "quantized_decomposed::dequantize_per_channel_group"


class Block(nn.Module):
    """A norm with a few large channels, and layers behind it and each other."""

    def __init__(self, norm: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.up, self.down, self.head = norm(64), nn.Linear(64, 96), nn.Linear(96, 64), nn.Linear(64, 32)
        with torch.no_grad():
            self.norm.get_parameter("weight")[::9] *= 40

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.down(torch.relu(self.up(self.norm(x)))))


def data(seed: int, width: int = 64) -> Tensor:
    """Inputs whose features depend on each other, as those of trained networks do."""
    mixing = seeded(width, width, seed=9) / width**0.5
    return seeded(16, 12, width, seed=seed) @ (mixing + 0.3)


@functools.cache
def block(norm: str = "LayerNorm") -> Program:
    """Captured once; not to be edited."""
    return captured(Block(getattr(nn, norm)), data(0))


def applied(program: Program, spec: str) -> tuple[Program, Context]:
    made, context = program.clone(), Context(calibration=((data(1),), (data(2),)))
    for item in parse(spec):
        item(made, context)
        refresh(made)
    return made, context


def error(program: Program, made: Program) -> float:
    (wanted,), (got,) = program.run((data(3),)), made.run((data(3),))
    return float((got - wanted).square().sum() / (wanted - wanted.mean((0, 1))).square().sum())


@pytest.mark.parametrize(
    ("spec", "limit"),
    [("{format=int8}", 2e-4), ("{format=int8;group=32;method=gptq}", 2e-4), ("{format=e4m3}", 5e-3),
     pytest.param("{format=e5m2}", 2e-2, marks=pytest.mark.slow), ("{method=nearest}", 5e-2),
     ("{format=uint4;method=awq}", 2e-2),
     pytest.param("{format=mxfp4;backend=eager}", 0.1, marks=pytest.mark.slow), ("{format=nvfp4;backend=eager}", 5e-2)],
)  # fmt: skip
def test_every_format_stays_near_and_stores_small_numbers(spec: str, limit: float) -> None:
    program = block()
    made, context = applied(program, f"quantize-weights{spec}")
    assert len(context.taken) == 3
    assert 0 < error(program, made) < limit
    small = [v for v in made.weights.values() if isinstance(v, Tensor) and v.dim() == 2 and v.element_size() == 1]
    assert len(small) == 3
    assert made.parameter_bytes() < 0.45 * program.parameter_bytes()


@pytest.mark.parametrize("norm", ["LayerNorm", "RMSNorm"])
def test_rounding_by_data_loses_less_than_half(norm: str) -> None:
    program = block(norm)
    losses = {
        m: error(program, applied(program, f"quantize-weights{{method={m}}}")[0]) for m in ("nearest", "gptq", "awq")
    }
    assert losses["gptq"] < 0.5 * losses["nearest"] and losses["awq"] < 0.6 * losses["nearest"]


def test_factors_go_into_the_norm_and_the_layer_before_and_change_nothing_else() -> None:
    program = block()
    made, context = applied(program, "quantize-weights{format=int8;method=awq}")
    told = details(context)
    assert "in layer_norm" in told and "in linear;" in told and "no factors: add" in told
    assert operators(made) - operators(program) == {"quantized_decomposed::dequantize_per_channel": 3}
    assert error(program, made) < 1e-4


def test_levels_are_those_of_the_format() -> None:
    program = block()
    for name, (low, high) in {"int4": (-8, 7), "uint4": (0, 15)}.items():
        made, _ = applied(program, f"quantize-weights{{format={name};group=16}}")
        nodes = [node for node in made.nodes if key(node) == GROUP]
        assert len(nodes) == 3 and {node.args[6] for node in nodes} == {16}
        for node in nodes:
            level = made.weight(node.args[0])
            assert level is not None and low <= int(level.min()) and int(level.max()) <= high
            assert (node.args[2] is None) == (name == "int4")


class Odd(nn.Module):
    """Layers that cannot, and one that can."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.odd, self.tiny, self.wild = (
            nn.Linear(64, 40), nn.Linear(40, 64), nn.Linear(64, 8, bias=False), nn.Linear(64, 64),
        )  # fmt: skip
        self.shared = nn.Linear(64, 64)
        with torch.no_grad():
            self.wild.weight[0, 0] = float("inf")

    def forward(self, x: Tensor) -> Tensor:
        h = self.shared(self.shared(self.odd(torch.relu(self.first(x)))))
        computed = nn.functional.linear(h, self.shared.weight * x.mean())
        return self.tiny(h) + self.wild(h.clamp(0, 0) + 1)[..., :8] + computed[..., :8]


def test_what_cannot_is_declined_with_its_reason() -> None:
    made, context = applied(captured(Odd(), data(0)), "quantize-weights")
    assert [site.origin for site in context.taken] == ["first"]
    for text in (
        "40 inputs are not a multiple of the 32", "512 weights are fewer than 1024", "not finite",
        "shared.weight is read by several nodes", "computed in the graph",
    ):  # fmt: skip
        assert text in reasons(context)
    again = Context(calibration=((data(1),),))
    QuantizeWeights()(made, again)
    assert not again.taken and "it is quantized already" in reasons(again)


def test_a_backend_that_cannot_read_the_format_gets_none_of_it() -> None:
    program = block()
    made, context = applied(program, "quantize-weights{format=mxfp4}")
    assert not context.taken and reasons(context).count("onnxruntime reads no mxfp4; inductor, eager do") == 3
    assert made.weights.keys() == program.weights.keys()


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_calibration_is_no_fault(value: float) -> None:
    program = block()
    made, context = program.clone(), Context(calibration=((torch.full((4, 12, 64), value),),))
    for item in parse("quantize-weights{method=awq},quantize-weights{method=gptq}"):
        item(made, context)
        refresh(made)
    assert bool(made.run((data(3),))[0].isfinite().all())


@pytest.mark.parametrize(
    "text", ["{format=int5}", "{group=48}", "{group=32;format=e4m3}", "{method=round}", "{method=gptq;format=nvfp4}",
             "{least=0}"],
)  # fmt: skip
def test_options_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(f"quantize-weights{text}")


def test_it_prints_back() -> None:
    text = "quantize-weights{format=uint4;group=64;method=awq}"
    assert render(parse(text)) == text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "layers"), [("zoo:digits-vit", "uint4", 16), ("zoo:text-encoder", "int8", 13)]
)
def test_trained_transformers(name: str, kind: str, layers: int) -> None:
    model = trained(name)
    made, context = model.after(f"quantize-weights{{format={kind}}}")
    assert len(context.taken) == layers
    assert model.accuracy(made) >= model.accuracy(model.program) - 0.01
