"""Eligibility against the limits that the installed PyTorch itself states, and NVIDIA's examples."""

from __future__ import annotations

import pytest
import torch
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS
from torch.sparse import _semi_structured_conversions as conversions

from tersor.sparse.eligible import tensorrt, torch_semi_structured

DTYPES = [torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn, torch.float32, torch.float64]
KERNELS = {"cusparselt": SparseSemiStructuredTensorCUSPARSELT, "cutlass": SparseSemiStructuredTensorCUTLASS}


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_limits_are_torchs(kernels: str, dtype: torch.dtype) -> None:
    limits = KERNELS[kernels]._DTYPE_SHAPE_CONSTRAINTS.get(dtype)
    if limits is None or dtype == torch.float32:
        assert str(dtype).removeprefix("torch.") in torch_semi_structured((1024, 1024), dtype, kernels)  # type: ignore[arg-type]
        return
    rows, columns = limits.sparse_min_rows, limits.sparse_min_cols
    for shape, good in [
        ((rows, columns), True), ((3 * rows, 5 * columns), True), ((rows // 2, columns), False),
        ((rows, columns + 4), False), ((0, columns), False), ((rows, columns, 1), False), ((columns,), False),
    ]:  # fmt: skip
        reason = torch_semi_structured(shape, dtype, kernels)  # type: ignore[arg-type]
        assert (not reason) == good, (shape, reason)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8], ids=str)
def test_what_is_eligible_for_cutlass_packs(dtype: torch.dtype) -> None:
    for shape in [(16, 128), (32, 64), (32, 128), (48, 64), (64, 96), (33, 64)]:
        weight = torch.tensor([1, 0, 0, 1]).repeat(shape[0], shape[1] // 4).to(dtype)
        if torch_semi_structured(shape, dtype, "cutlass"):
            continue
        values, _ = conversions.sparse_semi_structured_from_dense_cutlass(weight)
        assert bool((values == 1).all())


def test_devices_without_sparse_tensor_cores() -> None:
    assert "7.5" in torch_semi_structured((128, 128), torch.float16, capability=(7, 5))
    assert "7.5" in tensorrt((512, 512), torch.float16, capability=(7, 5))
    assert not torch_semi_structured((128, 128), torch.float16, capability=(9, 0))
    assert "9.0" in torch_semi_structured((128, 128), torch.float16, "cutlass", capability=(9, 0))


def test_tensorrt_as_reported() -> None:
    """NVIDIA/TensorRT issues 1403 (64 channels, not picked), 4054 (grouped, not eligible), 3849 (3x3 picked first)."""
    assert "64 outputs" in tensorrt((64, 64, 3, 3), torch.float16)
    assert tensorrt((64, 64, 3, 3), torch.float16, least=0) == ""
    assert "grouped" in tensorrt((512, 128, 3, 3), torch.float16, groups=4)
    assert tensorrt((256, 64, 3, 3), torch.int8) == ""
    assert "64 inputs" in tensorrt((256, 64, 1, 1), torch.int8)
    assert tensorrt((512, 512), torch.float16) == ""
    assert "float32" in tensorrt((512, 512), torch.float32)
    assert "3 inputs are not a multiple of 4" in tensorrt((512, 3, 16, 16), torch.float16)
    assert tensorrt((512,), torch.float16)
