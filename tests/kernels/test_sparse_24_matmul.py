"""The 2:4 kernel: its reference against dense PyTorch, the kernel under the interpreter, and its machine code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tersor.errors import UsageError
from tersor.kernels.sparse_24_matmul import check, compiled, sparse_24_matmul, work
from tersor.sparse.pack import Packed, unpack
from tests.kernels.sparse_24_cases import FEW, FORMATS, MANY, operands


@pytest.mark.parametrize("name", FORMATS)
def test_reference_is_the_dense_layer(name: str) -> None:
    dtype, whole = getattr(torch, name.split()[-1]), bool(FORMATS[name])
    x, values, metadata, scale, bias = operands(5, 100, 37, dtype, whole)
    assert x is not None and values is not None and metadata is not None and bias is not None
    dense = unpack(Packed(values, metadata)).float()
    dense = dense if scale is None else dense * scale[:, None]
    wanted = torch.nn.functional.linear(x.float(), dense, bias.float()).to(dtype)
    torch.testing.assert_close(sparse_24_matmul(x, values, metadata, scale, bias), wanted)


def test_the_operator_keeps_its_promises() -> None:
    given = operands(5, 100, 37, torch.float32, False)
    x = given[0]
    assert x is not None
    results = torch.library.opcheck(sparse_24_matmul, (x.view(1, 5, 100), *given[1:]))
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("capability", [80, pytest.param(90, marks=pytest.mark.slow)])
def test_compiled_ahead_of_time(capability: int) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: it has wheels for Linux only")
    code = compiled(1, 4096, 4096, torch.bfloat16, torch.bfloat16, capability)
    assert code.spills == 0 and code.stack == 0
    assert 0 < code.registers <= 128 and code.shared <= 100 * 1024
    assert code.count("HMMA", "HGMMA") > 0 and "mma" in code.ptx
    assert code.count("LDGSTS") > 0, "weights are to be loaded while others are multiplied"


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("values", [torch.float32, torch.float16, torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(1, 4096, 14336), (16, 4096, 1024), (64, 768, 768), (3, 100, 37)]
)
def test_no_variant_spills(capability: int, values: torch.dtype, rows: int, inputs: int, outputs: int) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: it has wheels for Linux only")
    x = torch.bfloat16 if values == torch.int8 else values
    code = compiled(rows, inputs, outputs, x, values, capability)
    assert code.spills == 0 and code.stack == 0 and code.registers <= 255


def test_bytes_are_those_of_the_operands() -> None:
    for dtype, whole in ((torch.bfloat16, False), (torch.float16, True)):
        given = operands(8, 256, 64, dtype, whole)
        values = given[1]
        assert values is not None
        moved = sum(item.nbytes for item in given if item is not None) + 8 * 64 * dtype.itemsize
        assert work(8, 256, 64, dtype, values.dtype).bytes == moved
    dense = 4096 * 4096 * 2
    assert work(1, 4096, 4096, torch.bfloat16, torch.bfloat16, bias=False).bytes == 9 / 16 * dense + 2 * 2 * 4096
    assert work(1, 4096, 4096, torch.bfloat16, torch.int8, bias=False).bytes == 5 / 16 * dense + (2 * 2 + 4) * 4096


def _wrong(place: int, value: Tensor) -> list[Tensor | None]:
    given = operands(2, 16, 8, torch.float32, False)
    given[place] = value
    return given


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(2, 20), "inputs (2, 20) for values (8, 8)"),
        (0, torch.zeros(2, 16, dtype=torch.float16), "values of torch.float32"),
        (2, torch.zeros(8, 3, dtype=torch.uint8), "metadata (8, 3)"),
        (3, torch.zeros(2), "scale of shape (2,)"),
        (4, torch.zeros(8, 1), "bias of shape (8, 1)"),
    ],
)
def test_operands_that_do_not_fit(place: int, value: Tensor, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(*_wrong(place, value))  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FORMATS)
def test_the_kernel_on_a_gpu(name: str) -> None:
    dtype, whole = getattr(torch, name.split()[-1]), bool(FORMATS[name])
    for shape in [*FEW, *MANY]:
        given = operands(*shape, dtype, whole)
        on_gpu = [None if item is None else item.cuda() for item in given]
        torch.testing.assert_close(sparse_24_matmul(*on_gpu).cpu(), sparse_24_matmul(*given), rtol=2e-2, atol=2e-2)
