"""The triton backend without a GPU: what is substituted and why, what is linted, what is packaged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.backend import find_backend
from tersor.backends import triton as backend
from tersor.backends._triton_gate import LEAST, MEASURED, TABLE, Gate
from tersor.backends._triton_lint import findings
from tersor.backends._triton_lower import Lowering, lower
from tersor.capture.torch import capture_module
from tersor.context import Context
from tersor.cost.roofline import Work
from tersor.errors import BackendError
from tersor.kernels.catalogue import kernels
from tersor.passes.quantize_dynamic import QuantizeDynamic
from tersor.passes.quantize_weights import QuantizeWeights
from tersor.program import Program
from tersor.quant.insert import Q
from tersor.rewrite_values import key
from tersor.sparse.masks import magnitude
from tersor.sparse.pack import TWO_FOUR
from tersor.target import Target, named

H100 = named("h100")


class Block(nn.Module):
    """A decoder block in small: RMS norm, grouped attention, residual, layer norm, gated feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.RMSNorm(32), nn.LayerNorm(32)
        self.q, self.kv, self.out = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.gate, self.up, self.down = nn.Linear(32, 48), nn.Linear(32, 48), nn.Linear(48, 32)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        q = self.q(h).unflatten(-1, (4, 8)).transpose(1, 2)
        k, v = (item.unflatten(-1, (2, 8)).transpose(1, 2) for item in self.kv(h).chunk(2, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        h = self.second(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


@pytest.fixture(scope="module")
def block() -> Program:
    torch.manual_seed(0)
    mask = torch.rand(1, 1, 7, 7) < 0.7
    return capture_module(Block().eval(), (torch.randn(2, 7, 32), mask), None)


def called(made: Lowering) -> Counter[str]:
    """Operators of ours in a program."""
    names = (key(node) for node in made.program.nodes)
    return Counter(name.removeprefix("tersor::") for name in names if name.startswith("tersor::"))


def same(program: Program, made: Lowering, tolerance: float = 1e-5) -> None:
    for got, wanted in zip(made.program.run(made.program.inputs), program.run(program.inputs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


def test_it_is_passed_over_quietly_without_a_gpu() -> None:
    found = find_backend("triton")
    problem = found.missing()
    if torch.cuda.is_available():
        assert problem is None or "sm_" in problem
        return
    assert problem is not None and "CUDA" in problem


def test_a_cpu_is_no_target(block: Program) -> None:
    with pytest.raises(BackendError, match="not on target cpu"):
        backend.BACKEND.compile(block, Target("cpu"))
    assert backend.BACKEND.lint(block, Target("cpu"))[0].fatal


@pytest.mark.skipif(torch.cuda.is_available(), reason="says why there is no GPU")
def test_compiling_and_saving_without_a_gpu_say_why(block: Program, tmp_path) -> None:
    for action in (lambda: backend.BACKEND.compile(block, H100), lambda: backend.BACKEND.save(block, tmp_path / "out")):
        with pytest.raises(BackendError, match=r"built without CUDA|no CUDA device"):
            action()
    assert not (tmp_path / "out").exists()


def test_kernels_take_the_place_of_operators(block: Program) -> None:
    before = block.graph.python_code("self").src
    made = lower(block, H100, anyway=True)
    assert called(made) == {"norm": 2, "attention": 1, "glu": 1}
    residual = [node for node in made.program.nodes if key(node) == "tersor::norm" and node.args[1] is not None]
    assert len(residual) == 1, "the second norm takes the sum before it"
    same(block, made)
    assert block.graph.python_code("self").src == before


def test_what_is_not_measured_stays(block: Program) -> None:
    made = lower(block, H100)
    assert called(made) == {}
    reasons = [site.detail for site in made.declined]
    assert sum("not measured on compute capability 9.0" in reason for reason in reasons) == 4


def test_every_kernel_that_is_substituted_has_an_entry() -> None:
    assert set(TABLE) <= set(kernels())
    assert {name for name, _ in MEASURED} <= set(TABLE)


def test_a_measurement_decides(monkeypatch) -> None:
    work = Work(1.0, 1.0)
    for ratio, told in ((LEAST, ""), (0.9, "norm was measured at 0.90 of Inductor's fused norm")):
        monkeypatch.setitem(MEASURED, ("norm", 90), ratio)
        assert Gate(H100).objection("norm", work, work, ("float16", "float16")).startswith(told or "")
        assert bool(Gate(H100).objection("norm", work, work, ("float16", "float16"))) == bool(told)


def linear(inputs: int, outputs: int, rows: int, edit: Callable[[nn.Linear], None] = lambda layer: None) -> Program:
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        edit(layer)
    return capture_module(nn.Sequential(layer, nn.GELU()).eval(), (torch.randn(rows, inputs),), None)


def test_dynamic_integers_are_multiplied_as_integers() -> None:
    program = linear(64, 48, 5)
    QuantizeDynamic(per="token", noise=1.0, anyway=True)(program, Context(calibration=(program.inputs,)))
    made = lower(program, H100, anyway=True)
    assert called(made) == {"scaled_matmul": 1}
    (node,) = (node for node in made.program.nodes if key(node) == "tersor::scaled_matmul")
    assert "gelu" in node.args and not any(key(node) == "gelu" for node in made.program.nodes)
    same(program, made)


def static(program: Program) -> Program:
    """With the layer's input in uint8 and its weight in int8, as the quantize pass writes it for ONNX Runtime."""
    from tersor.quant.grid import GRIDS
    from tersor.quant.insert import put_activation, put_weight
    from tersor.quant.weights import Whole

    layer = next(node for node in program.nodes if key(node) == "linear")
    source, stored = layer.all_input_nodes[:2]
    weight = program.weights[str(stored.target)]
    scale = weight.abs().amax(1) / 127
    level = (weight / scale[:, None]).round().to(torch.int8)
    whole = Whole(level, scale, torch.zeros_like(scale, dtype=torch.int64), torch.zeros_like(scale))
    put_weight(program, layer, whole, GRIDS["int8"])
    put_activation(source, torch.tensor(0.02), torch.tensor(111), GRIDS["uint8"])
    program.changed()
    return program


def test_static_integers_with_a_zero_point_are_multiplied_as_integers() -> None:
    program = static(linear(64, 48, 5))
    made = lower(program, H100, anyway=True)
    assert called(made) == {"scaled_matmul": 1}
    levels = [node for node in made.program.nodes if key(node) == "quantized_decomposed::quantize_per_tensor"]
    assert [node.args[2:] for node in levels] == [(-17, -128, 127, torch.int8)]
    same(program, made)


@pytest.mark.parametrize("name", ["int4", "uint4"])
def test_four_bit_weights_stay_packed(name: str) -> None:
    program = linear(128, 64, 3)
    QuantizeWeights(format=name, method="nearest", least=1)(program, Context(calibration=(program.inputs,)))
    made = lower(program, H100, anyway=True)
    assert called(made) == {"int4_matmul": 1}
    same(program, made)
    (packed,) = (value for path, value in made.program.weights.items() if path.endswith("_packed"))
    assert packed.nbytes * 2 == 128 * 64


def sparse(layer: nn.Linear) -> None:
    layer.weight *= magnitude(layer.weight, TWO_FOUR)


def test_2_4_weights_are_compressed_for_few_rows() -> None:
    program = linear(64, 48, 3, sparse)
    made = lower(program, H100, anyway=True)
    assert called(made) == {"sparse_24_matmul": 1}
    same(program, made)


def test_2_4_weights_of_many_rows_become_semi_structured_or_say_why() -> None:
    float32 = lower(linear(64, 48, 200, sparse), H100, anyway=True)
    assert float32.semi_structured == () and called(float32) == {}
    assert [site.detail for site in float32.declined] == [
        "the 2:4 weight stays dense: cusparselt has no sparse kernels for torch.float32"
    ]
    half = capture_module(_half(64, 48), (torch.randn(200, 64).bfloat16(),), None)
    assert lower(half, H100, anyway=True).semi_structured == ("weight",)
    odd = lower(capture_module(_half(64, 40), (torch.randn(200, 64).bfloat16(),), None), H100, anyway=True)
    assert "40 outputs are not a multiple of 16" in odd.declined[0].detail
    small = lower(half, H100)
    assert "predicted gain of at most" in small.declined[0].detail
    assert [item.problem for item in findings(half, H100) if "2:4" in item.problem] == [small.declined[0].detail]


def _half(inputs: int, outputs: int) -> nn.Module:
    layer = nn.Linear(inputs, outputs).eval()
    with torch.no_grad():
        sparse(layer)
    return layer.bfloat16()


def test_large_layers_with_few_rows_pay_by_their_bytes() -> None:
    class Constant(nn.Module):
        scale: torch.Tensor
        level: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(2048, 16))
            self.register_buffer("level", torch.ones(2048, 2048, dtype=torch.int8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            numbers = (-8, 7, torch.int8, 128, torch.float32)
            return F.linear(x, Q.dequantize_per_channel_group(self.level, self.scale, None, *numbers))

    program = capture_module(Constant().eval(), (torch.randn(1, 2048),), None)
    assert called(lower(program, H100)) == {"int4_matmul": 1}
    assert called(lower(program, Target("cuda", "cuda"))) == {}


def test_lint_names_dtypes_heads_sizes_and_dimensions() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(30, 33)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.layer(x)[:, None]
            return F.scaled_dot_product_attention(h, h, h).double()

    program = capture_module(Odd().eval(), (torch.randn(2, 5, 30),), ({0: torch.export.Dim("batch", min=1)},))
    told = findings(program, H100)
    problems = " | ".join(item.problem for item in told)
    assert "heads of 33" in problems and "no multiple of 4" in problems and "float64" in problems
    assert "no CUDA graphs" in problems and not any(item.fatal for item in told)
    assert all(item.remedy for item in told)
    half = capture_module(_half(16, 16), (torch.randn(2, 16).bfloat16(),), None)
    assert "emulated" in findings(half, named("t4"))[0].problem


def test_the_data_sheet_of_this_machine_is_found_by_name() -> None:
    assert backend.sheet("NVIDIA A100-SXM4-80GB", (8, 0)).capability == "8.0"
    assert backend.sheet("something new", (12, 7)).capability == "12.7"


def test_scripts_name_inputs_and_need_no_tersor(block: Program, tmp_path) -> None:
    files = backend.scripts(block, tmp_path, "cuda")
    assert [path.name for path in files] == ["run.py", "run.cpp"]
    python, cpp = (path.read_text() for path in files)
    assert len(python.splitlines()) == 5 and "tersor" not in python + cpp
    assert "torch.zeros([2, 7, 32], dtype=torch.float32, device='cuda')" in python
    assert "torch::zeros({1, 1, 7, 7}, torch::dtype(torch::kBool).device(torch::kCUDA))" in cpp


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_package_holds_no_python_operator(block: Program, tmp_path) -> None:
    """For the CPU, where the operators dissolve into their references; on a GPU they dissolve into launches."""
    made = lower(block, H100, anyway=True)
    backend.package(made.program, tmp_path / "model.pt2", "cpu")
    backend.scripts(block, tmp_path, "cpu")
    done = subprocess.run(
        [sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "(2, 7, 32)" in done.stdout


@pytest.mark.gpu
def test_compiled_on_a_gpu(block: Program, tmp_path) -> None:
    call = backend.BACKEND.compile(block, H100)
    for got, wanted in zip(call(*block.inputs), block.run(block.inputs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
    files = backend.BACKEND.save(block, tmp_path / "out")
    assert {path.name for path in files} == {"model.pt2", "run.py", "run.cpp"}
    done = subprocess.run([sys.executable, "run.py"], cwd=tmp_path / "out", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_kernels_are_compiled_from_the_command_line(tmp_path, capsys) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: it has wheels for Linux only")
    from tersor.cli import main

    arguments = ["compile-kernels", "--target", "h100", "--kernel", "token_merge", "-o", str(tmp_path / "cubins")]
    assert _exit(main, [*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["target"] == "sm_90" and len(found["kernels"]) == 3
    for row in found["kernels"]:
        assert (tmp_path / "cubins" / row["file"]).read_bytes()[:4] == b"\x7fELF"
        assert row["spills"] == 0 and row["registers"] > 0
    assert json.loads((tmp_path / "cubins" / "resources.json").read_text()) == found
    assert _exit(main, arguments) == 10
    assert "--force" in capsys.readouterr().err
    for wrong, told in (("v100", "sm_80"), ("h1000", "did you mean")):
        assert _exit(main, ["compile-kernels", "--target", wrong]) == 2
        assert told in capsys.readouterr().err
    assert _exit(main, ["compile-kernels", "--kernel", "atention"]) == 2
    assert "did you mean 'attention'" in capsys.readouterr().err


def _exit(main: Callable[..., object], arguments: list[str]) -> int:
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    return int(code or 0)  # type: ignore[call-overload]
