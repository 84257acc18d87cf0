"""Every backend on the same programs, against eager PyTorch."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.backend import Backend, backend_names, find_backend
from tersor.capture.torch import capture_module
from tersor.errors import BackendError, UsageError
from tersor.program import Program
from tersor.target import Target

TARGET = Target("cpu", "cpu", 1)
BATCH = torch.export.Dim("batch", min=1)
LENGTH = torch.export.Dim("length", min=1)


class Small(nn.Module):
    """Convolution, attention over a dynamic length, several dtypes, an output that is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(8, 16, 3, padding=1)
        self.norm = nn.LayerNorm(16)
        self.table = nn.Embedding(10, 16)

    def forward(self, x: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.norm(F.relu(self.convolution(x)).transpose(1, 2)) + self.table(index)
        heads = hidden.reshape(x.shape[0], x.shape[2], 2, 8).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
        return {"mixed": mixed, "best": mixed.argmax(-1), "positive": mixed > 0, "same": index}


def example(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch * 100 + length)
    x = torch.randn(batch, 8, length, generator=generator)
    return x, torch.randint(0, 10, (batch, length), generator=generator)


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return capture_module(Small().eval(), example(2, 6), ({0: BATCH, 2: LENGTH}, {0: BATCH, 1: LENGTH}))


@pytest.fixture(scope="module", params=backend_names())
def backend(request: pytest.FixtureRequest) -> Backend:
    found = find_backend(request.param)
    missing = found.missing()
    if missing:
        pytest.skip(missing)
    if found.name not in ("eager", "inductor", "onnxruntime", "openvino"):
        pytest.skip("has tests of its own")
    return found


@pytest.fixture(scope="module")
def compiled(backend, program):
    return backend.compile(program, TARGET)


def check(program: Program, compiled, inputs) -> None:
    wanted, got = program.run(inputs), compiled(*inputs)
    assert isinstance(got, tuple)
    for a, b in zip(wanted, got, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if a.dtype.is_floating_point:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        else:
            assert (a != b).float().mean() < 0.1  # a tie may be broken by rounding
    assert torch.equal(wanted[-1], got[-1])


@pytest.mark.parametrize("sizes", [(2, 6), (3, 9), (1, 6), (2, 1), (1, 1)])
def test_sizes(program, compiled, sizes):
    check(program, compiled, example(*sizes))


def test_strided_inputs(program, compiled):
    x, index = example(2, 6)
    strided = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    check(program, compiled, (strided, index.t().contiguous().t()))


def test_results_survive_the_next_call(compiled):
    first = compiled(*example(2, 6))
    copies = [value.clone() for value in first]
    other = compiled(*[value + 1 if value.dtype.is_floating_point else 9 - value for value in example(2, 6)])
    assert not torch.equal(first[0], other[0])
    assert all(torch.equal(value, copied) for value, copied in zip(first, copies, strict=True))


def test_inputs_are_left_alone(compiled):
    inputs = example(3, 5)
    copies = [value.clone() for value in inputs]
    compiled(*inputs)
    assert all(torch.equal(value, copied) for value, copied in zip(inputs, copies, strict=True))


def test_two_threads(program, compiled):
    inputs = [example(1 + n % 3, 4 + n % 4) for n in range(40)]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda flat: compiled(*flat), inputs))
    for flat, got in zip(inputs, results, strict=True):
        torch.testing.assert_close(got[0], program.run(flat)[0], rtol=1e-4, atol=1e-5)


def test_the_saved_folder_runs_without_tersor(backend, program, tmp_path):
    folder = tmp_path / "out"
    files = backend.save(program, folder)
    assert sorted(files) == sorted(folder.iterdir())
    script = folder / "run.py"
    assert len(script.read_text().splitlines()) == 5
    assert "tersor" not in script.read_text()
    if backend.name == "inductor":
        return  # compiles for many seconds; the file is the same as eager's
    done = subprocess.run([sys.executable, "run.py"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "(2, 6, 16)" in done.stdout


def test_nothing_to_say_about_a_plain_program(backend, program):
    assert backend.lint(program, TARGET) == []


def test_an_operator_without_onnx_form():
    model = nn.Linear(4, 4)
    program = capture_module(model.eval(), (torch.randn(2, 4),))
    program.inputs = (torch.randn(2, 4, dtype=torch.complex64),)
    findings = find_backend("onnxruntime").lint(with_dtype(torch.complex64), TARGET)
    assert [finding.fatal for finding in findings] == [True]
    assert "complex64" in findings[0].problem


def with_dtype(dtype: torch.dtype) -> Program:
    class Double(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x

    return capture_module(Double().eval(), (torch.ones(2, 3, dtype=dtype),), ({0: BATCH},))


@pytest.mark.parametrize("name", ["onnxruntime", "inductor", "eager"])
def test_bfloat16(name):
    program = with_dtype(torch.bfloat16)
    try:
        (got,) = find_backend(name).compile(program, TARGET)(*program.inputs)
    except BackendError as error:
        assert "bfloat16" in str(error) or "BFLOAT16" in str(error) or "NOT_IMPLEMENTED" in str(error)
    else:
        torch.testing.assert_close(got, program.run(program.inputs)[0])


def test_a_nearby_name_is_suggested():
    with pytest.raises(UsageError, match="did you mean 'onnxruntime'"):
        find_backend("onnxruntim")


def test_an_absent_device():
    with pytest.raises(BackendError, match="CUDAExecutionProvider"):
        find_backend("onnxruntime").compile(with_dtype(torch.float32), Target("cuda", "cuda"))


def test_broken_inputs_are_backend_errors():
    compiled = find_backend("onnxruntime").compile(with_dtype(torch.float32), TARGET)
    with pytest.raises(BackendError, match="ONNX Runtime fails"):
        compiled(torch.ones(2, 4))
