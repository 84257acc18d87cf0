"""ONNX Runtime on tensors where they are: inputs are read from a device's memory, and outputs are left there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from tersor.interface import Flat


def run_bound(
    session: Any, input_names: Sequence[str], output_names: Sequence[str], inputs: Sequence[torch.Tensor], device: str
) -> Flat:
    """Outputs on ``device``, "cuda" or "cpu", in memory that nothing else refers to."""
    held = [value.detach().contiguous() for value in inputs]
    for place in {value.device for value in held if value.is_cuda}:
        # The session has a stream of its own, which does not wait for ours.
        torch.cuda.current_stream(place).synchronize()
    binding = session.io_binding()
    for name, value in zip(input_names, held, strict=True):
        element = int(ir.tensor_adapters.from_torch_dtype(value.dtype))
        index = value.device.index or 0
        binding.bind_input(name, value.device.type, index, element, list(value.shape), value.data_ptr())
    for name in output_names:
        binding.bind_output(name, device)
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    return tuple(_tensor(value) for value in binding.get_outputs())


def _tensor(value: Any) -> torch.Tensor:
    """A copy; Booleans and what DLPack lacks travel as bytes."""
    dtype = ir.tensor_adapters.to_torch_dtype(ir.DataType(value.element_type()))
    made = torch.from_dlpack(value._ortvalue)
    return made.clone() if made.dtype == dtype else made.view(dtype).clone()
