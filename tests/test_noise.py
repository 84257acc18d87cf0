"""What may differ between implementations of one program: rounding, flipped levels, and nothing that is wrong."""

from __future__ import annotations

from collections.abc import Callable

import onnxruntime
import pytest
import torch
from torch import fx, nn

from tersor.capture import load
from tersor.export import save_onnx
from tersor.noise import rounding
from tersor.pipeline import Reference
from tersor.program import Program
from tersor.rewrite_values import key
from tests.factor.zoo import trained


def test_a_programs_own_rounding_error_is_that_of_its_sums() -> None:
    torch.manual_seed(0)
    program = load(nn.Linear(4096, 1).eval(), (torch.rand(2, 4096),))
    (output,) = program.run(program.inputs)
    (noise,) = rounding(program, program.inputs, (output,))
    precise = nn.functional.linear(program.inputs[0].double(), *(value.double() for value in program.weights.values()))
    assert noise == pytest.approx(float((output.double() - precise).abs().max()))
    assert 0 < noise < 1e-3


@pytest.fixture(scope="module")
def quantized() -> Program:
    return trained("zoo:digits-cnn").after("quantize")[0]


def test_onnx_runtimes_integer_kernels_are_within(quantized: Program, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = save_onnx(quantized, tmp_path_factory.mktemp("noise") / "model.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.from_numpy(value) for value in session.run(None, {name: inputs[0].numpy()}))

    reference = Reference.of(quantized, trained("zoo:digits-cnn").calibration)
    assert all(item.passed for item in reference.judge("the file", run))


def first(program: Program, name: str) -> fx.Node:
    return next(node for node in program.nodes if key(node).endswith(name))


def scale(program: Program) -> None:
    """Two percent more, on both sides of the integers."""
    node = first(program, "::dequantize_per_tensor")
    node.update_arg(1, node.args[1] * 1.02)  # type: ignore[operator]


def zero(program: Program) -> None:
    """One level aside."""
    node = first(program, "::dequantize_per_tensor")
    node.update_arg(2, node.args[2] + 1)  # type: ignore[operator]


def clipped(program: Program) -> None:
    """The upper half of the levels lost."""
    node = first(program, "::quantize_per_tensor")
    node.update_arg(4, 127)


def weight(program: Program) -> None:
    """One output channel's scale is another's."""
    node = first(program, "::dequantize_per_channel")
    assert isinstance(node.args[1], fx.Node)
    name = str(node.args[1].target)
    program.weights[name] = program.weights[name].roll(1)


def bias(program: Program) -> None:
    """The first layer's bias is lost."""
    node = first(program, "conv2d")
    node.update_arg(2, None)


@pytest.mark.parametrize("fault", [scale, zero, clipped, weight, bias])
def test_planted_faults_are_not(quantized: Program, fault: Callable[[Program], None]) -> None:
    wrong = quantized.clone()
    fault(wrong)
    wrong.changed()
    parity = Reference.of(quantized).judge(fault.__name__, wrong.run_flat)
    assert not all(item.passed for item in parity)


def test_what_another_runtime_may_do_to_a_model_that_amplifies_errors_is_not_less() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(12) for layer in (nn.Linear(16, 16), nn.Tanh())]
    for layer in layers[::2]:
        layer.weight.data.mul_(6)  # type: ignore[operator]
    program = load(nn.Sequential(*layers).eval(), (torch.rand(4, 16),))
    outputs = program.run(program.inputs)
    (here,), (elsewhere,) = (rounding(program, program.inputs, outputs, elsewhere=where) for where in (False, True))
    assert 0 < here <= elsewhere < 1
    assert rounding(program, program.inputs, outputs, elsewhere=True) == [elsewhere]


def test_a_probe_where_the_original_is_chaos_is_left_out() -> None:
    class Wave(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(3 / x.abs().mean(1))

    program = load(Wave().eval(), (torch.rand(4, 16) + 0.5,))
    reference = Reference.of(program)
    *sizes, small = reference.cases
    assert reference.probes == 1 and float(small.inputs[0].max()) < 0.01

    def other(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (torch.sin(3 / x.abs().mean(1) * (1 + 1e-6)),)

    parity = reference.judge("another way", other)
    assert len(parity) == len(sizes) and all(item.passed for item in parity)

    def wrong(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (torch.sin(3 / x.abs().mean(1)) + 0.01,)

    assert not any(item.passed for item in reference.judge("wrong", wrong))


class Sum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.exp().double().sum()


def test_errors_to_one_side_do_not_cancel() -> None:
    """Of a hundred thousand errors at random less than a hundredth is left in the sum."""
    program = load(Sum().eval(), (torch.linspace(0, 1, 100_000),))
    outputs = program.run(program.inputs)
    unit = torch.finfo(torch.float32).eps * float(outputs[0])
    (here,), (elsewhere,) = (rounding(program, program.inputs, outputs, elsewhere=where) for where in (False, True))
    assert here < 0.01 * unit
    assert 0.5 * unit < elsewhere < 2 * unit
