"""Memory for outputs whose size is known only when they have been computed."""

from __future__ import annotations

from typing import Any

import torch

from tersor.backends._tensorrt_api import Trt


def allocator(trt: Trt, device: torch.device) -> Any:
    """An object that TensorRT asks for memory and tells the final shape; `taken` gives the tensor."""

    class Allocator(trt.IOutputAllocator):
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.memory = torch.empty(0, dtype=torch.uint8, device=device)
            self.shape: tuple[int, ...] = ()

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            if size > self.memory.numel():
                self.memory = torch.empty(int(size), dtype=torch.uint8, device=device)
            return self.memory.data_ptr()

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shape = tuple(int(size) for size in shape)

    return Allocator()


def taken(made: Any, dtype: torch.dtype) -> torch.Tensor:
    """What was computed, as a tensor of its own memory."""
    count = 1
    for size in made.shape:
        count *= size
    memory: torch.Tensor = made.memory
    return memory[: count * dtype.itemsize].view(dtype).reshape(made.shape).clone()
