"""N:M sparsity as a pass: the pattern holds, data help, and targets that gain nothing are spared."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tersor.context import Context
from tersor.errors import UsageError
from tersor.passes.quantize import Quantize
from tersor.passes.sparsify import Sparsify
from tersor.recover import Correspondence, recover
from tersor.refresh import refresh
from tersor.sparse.layout import as_matrix
from tersor.sparse.pattern import is_pattern
from tersor.sparse.pattern import parse as pattern_of
from tersor.spec import parse, render
from tersor.target import Target, named
from tests.factor.zoo import distance, trained
from tests.passes.harness import captured, reasons

GPU = Target("cuda", "cuda", balance=100.0, multiple=8)
H100 = named("h100")


def test_a_cpu_gains_nothing() -> None:
    program = captured(nn.Linear(64, 64).eval(), torch.rand(4, 64))
    context = Context(calibration=((torch.rand(4, 64),),))
    Sparsify()(program, context)
    assert not context.taken
    assert "no kernel of target cpu skips the zeros of 2:4: predicted gain 1.00" in reasons(context)


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8"])
def test_every_layer_has_the_pattern(pattern: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 10), nn.Linear(10, 7))
    x = torch.rand(4, 32, 8, 8)
    program, context = captured(model, x), Context(calibration=((x,),), target=GPU)
    Sparsify(pattern=pattern, sweeps=1, anyway=True)(program, context)
    refresh(program)
    assert [site.node for site in context.taken] == ["conv2d", "linear"]
    assert "10 inputs are not a multiple of" in reasons(context)
    for name, weight in program.weights.items():
        if name.endswith("_sparse"):
            assert is_pattern(as_matrix(weight), pattern_of(pattern))
            assert float((weight != 0).float().mean()) == pytest.approx(pattern_of(pattern).density, abs=0.02)


def test_data_do_better_than_magnitude_on_a_trained_model() -> None:
    model = trained("zoo:digits-vit")
    errors, context = {}, Context(calibration=model.calibration)
    for method in ("magnitude", "wanda", "sparsegpt"):
        made, context = model.after(f"sparsify{{method={method};anyway=True}}")
        errors[method] = distance(made, model.program, model.calibration[0])
        if method == "sparsegpt":
            assert model.accuracy(made) >= model.accuracy(model.program) - 0.03
    assert len(context.taken) > 10
    assert errors["sparsegpt"] < 0.6 * errors["magnitude"]


def test_each_layer_is_judged_by_its_predicted_gain() -> None:
    """One large layer that gains in half precision, one too small, and both of them in float32."""
    large, small = nn.Linear(2048, 2048), nn.Linear(2048, 256)
    x = torch.rand(8, 64, 2048).half()
    program = captured(nn.Sequential(large, small).half().eval(), x)
    context = Context(calibration=((x,),), target=H100)
    Sparsify(sweeps=0, gain=1.3, method="magnitude")(program, context)
    (taken,) = context.taken
    assert taken.node == "linear" and "2:4, " in taken.detail
    assert "predicted gain of at most 1.33 on h100 with TensorRT" in taken.detail
    (skipped,) = context.skipped
    assert "predicted gain of at most 1.04" in skipped.detail and skipped.detail.endswith("is below 1.3")


@pytest.mark.parametrize(
    ("options", "target", "reason"),
    [
        ({}, H100, "h100 has no sparse rate for float32"),
        ({"compute": "float16"}, H100, "64 outputs are fewer than the 256"),
        ({"compute": "int8", "backend": "triton"}, H100, "is below 1.1"),
        ({"compute": "float16"}, GPU, "target cuda has no data sheet"),
        ({"compute": "float16", "pattern": "4:8"}, H100, "no kernel skips the zeros of 4:8"),
    ],
)
def test_what_does_not_pay_is_declined_with_figures(options: dict[str, str], target: Target, reason: str) -> None:
    program = captured(nn.Linear(64, 64).eval(), torch.rand(4, 64))
    context = Context(calibration=((torch.rand(4, 64),),), target=target)
    Sparsify(**options)(program, context)  # type: ignore[arg-type]
    assert not context.taken and reason in reasons(context)


def test_a_layer_without_usable_data_is_left() -> None:
    program, x = captured(nn.Linear(64, 64).eval(), torch.rand(4, 64)), torch.full((4, 64), torch.nan)
    context = Context(calibration=((x,),))
    Sparsify(anyway=True)(program, context)
    assert not context.taken and "not finite" in reasons(context)


def test_few_inputs_and_grouped_convolutions_stay() -> None:
    model, x = nn.Sequential(nn.Conv2d(4, 64, 1), nn.Conv2d(64, 64, 3, groups=64)), torch.rand(2, 4, 8, 8)
    program, context = captured(model, x), Context(calibration=((x,),))
    Sparsify(anyway=True)(program, context)
    assert not context.taken
    assert "4 inputs are fewer than 32" in reasons(context) and "64 groups" in reasons(context)


@pytest.mark.parametrize("text", ["sparsify{pattern=4:2}", "sparsify{pattern=half}", "sparsify{method=best}",
                                  "sparsify{sweeps=-1}", "sparsify{least=0}", "sparsify{compute=int3}",
                                  "sparsify{gain=0.5}", "sparsify{backend=eager}"])  # fmt: skip
def test_options_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


@pytest.mark.parametrize("rounding", ["nearest", "gptq", "adaround"])
def test_quantization_keeps_the_pattern(rounding: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(16, 32, 6, 6)
    model = nn.Sequential(nn.Conv2d(32, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 8)).eval()
    program, context = captured(model, x), Context(calibration=((x,),))
    Sparsify(sweeps=1, anyway=True)(program, context)
    Quantize(rounding=rounding, noise=1.0)(program, context)
    refresh(program)
    levels = [weight for name, weight in program.weights.items() if name.endswith("_sparse_quantized")]
    assert len(levels) == 2
    for level in levels:
        assert level.dtype == torch.int8 and is_pattern(as_matrix(level), pattern_of("2:4"))
        assert float((level != 0).float().mean()) > 0.45


@pytest.mark.parametrize("method", ["least-squares", "distill"])
def test_recovery_keeps_the_pattern_and_helps(method: str) -> None:
    torch.manual_seed(0)
    mix = torch.randn(64, 64)
    batches = [torch.randn(32, 64) @ mix for _ in range(4)]
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    before = captured(model, batches[0])
    program, context = before.clone(), Context(calibration=tuple((x,) for x in batches))
    Sparsify(method="magnitude", anyway=True)(program, context)
    refresh(program)
    found = recover(before, program, Correspondence(), context.calibration, method, seconds=1.0)
    assert found.loss_after < 0.9 * found.loss_before
    pruned = [weight for name, weight in found.program.weights.items() if name.endswith("_sparse")]
    assert len(pruned) == 2 and all(is_pattern(weight, pattern_of("2:4")) for weight in pruned)
    assert all(float((weight != 0).float().mean()) == 0.5 for weight in pruned)


def test_it_prints_back() -> None:
    assert render(parse("sparsify{pattern=4:8;anyway=True}")) == "sparsify{pattern=4:8;anyway=True}"
