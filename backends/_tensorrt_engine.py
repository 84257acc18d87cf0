"""A deserialized engine as a callable on torch tensors: memory, shapes, profiles, CUDA graphs, times of layers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tersor.backends._tensorrt_api import (
    ICudaEngine,
    IExecutionContext,
    ILogger,
    Runtime,
    Trt,
    said,
    torch_dtype,
)
from tersor.backends._tensorrt_device import Device
from tersor.backends._tensorrt_graphs import Graphs
from tersor.backends._tensorrt_outputs import allocator, taken
from tersor.backends._tensorrt_profiles import Shape
from tersor.errors import BackendError
from tersor.interface import Flat


@dataclass(frozen=True)
class Port:
    """An input or output of an engine.

    Attributes:
        name: as in the ONNX file.
        dtype: of the tensor.
        host: whether its memory is the CPU's.
    """

    name: str
    dtype: torch.dtype
    host: bool


class Engine:
    """Runs an engine; calls from several threads take turns.

    Attributes:
        engine: TensorRT's own.
        inputs, outputs: in the order of the model.
    """

    def __init__(self, trt: Trt, kept: ILogger, plan: bytes, device: Device, *, graphs: bool = True) -> None:
        """Deserialize; raises BackendError where TensorRT refuses the plan, as one of another version or device."""
        self.trt, self.kept, self.device = trt, kept, device
        self._runtime: Runtime = trt.Runtime(kept)
        # An engine for several versions carries the code of a small runtime of its own.
        self._runtime.engine_host_code_allowed = True
        engine: ICudaEngine | None = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BackendError(f"TensorRT cannot load the engine: {said(kept)}", "build it again on this machine")
        self.engine: ICudaEngine = engine
        self.inputs, self.outputs = self._ports(trt.TensorIOMode.INPUT), self._ports(trt.TensorIOMode.OUTPUT)
        self._lock = threading.Lock()
        self._contexts: dict[int, IExecutionContext] = {}
        self._empty = torch.zeros(256, dtype=torch.uint8, device=device.device)
        self._graphs = Graphs(self) if graphs and self.is_steady else None

    def _ports(self, mode: Any) -> tuple[Port, ...]:
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        return tuple(
            Port(
                name,
                torch_dtype(self.trt, self.engine.get_tensor_dtype(name)),
                self.engine.get_tensor_location(name) == self.trt.TensorLocation.HOST,
            )
            for name in names
            if self.engine.get_tensor_mode(name) == mode
        )

    @property
    def is_steady(self) -> bool:
        """Whether all memory is the device's, as a CUDA graph needs it."""
        return not any(port.host for port in (*self.inputs, *self.outputs))

    def __call__(self, *inputs: torch.Tensor) -> Flat:
        """Outputs on the device of the first input, in memory that nothing else refers to."""
        back = inputs[0].device if inputs else self.device.device
        with self._lock, torch.no_grad():
            values = self.placed(inputs)
            made = self._graphs.run(values) if self._graphs is not None else None
            if made is None:
                made = self.run(self.context(values), values)
        return tuple(value.to(back) for value in made)

    def forget(self) -> None:
        """Drop contexts and recorded graphs, which may hold what the weights were."""
        with self._lock:
            self.device.wait()
            self._contexts.clear()
            self._graphs = Graphs(self) if self._graphs is not None else None

    def placed(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The inputs where the engine reads them, contiguous and of its dtypes."""
        if len(inputs) != len(self.inputs):
            raise BackendError(f"the engine takes {len(self.inputs)} inputs, got {len(inputs)}")
        places = [torch.device("cpu") if port.host else self.device.device for port in self.inputs]
        return [
            value.detach().to(device=place, dtype=port.dtype).contiguous()
            for value, port, place in zip(inputs, self.inputs, places, strict=True)
        ]

    def context(self, values: Sequence[torch.Tensor]) -> IExecutionContext:
        """The execution context of the profile that these shapes fit in; raises BackendError where none does."""
        place = self.profile(values)
        if place not in self._contexts:
            self._contexts[place] = self.new_context(place)
        return self._contexts[place]

    def new_context(self, place: int) -> IExecutionContext:
        """A context for one profile."""
        context: IExecutionContext | None = self.engine.create_execution_context()
        if context is None:
            raise BackendError(f"TensorRT has no memory to run the engine: {said(self.kept)}", "free device memory")
        if place:
            with self.device.stream() as stream:
                context.set_optimization_profile_async(place, stream)
            self.device.wait()
        return context

    def profile(self, values: Sequence[torch.Tensor]) -> int:
        """The first profile that holds these shapes."""
        shapes = {port.name: tuple(value.shape) for port, value in zip(self.inputs, values, strict=True)}
        for place in range(max(1, self.engine.num_optimization_profiles)):
            if all(self._fits(name, shape, place) for name, shape in shapes.items()):
                return place
        ranges = {name: self._range(name, 0) for name in shapes}
        raise BackendError(
            f"inputs of shapes {shapes} are outside of the engine's profiles, the first of which is {ranges}",
            "build it with shapes=name:smallest:usual:largest that hold them",
        )

    def _range(self, name: str, place: int) -> tuple[Shape, Shape]:
        low, _, high = self.engine.get_tensor_profile_shape(name, place)
        return tuple(low), tuple(high)

    def _fits(self, name: str, shape: Shape, place: int) -> bool:
        declared = tuple(self.engine.get_tensor_shape(name))
        if -1 not in declared:
            return declared == shape
        low, high = self._range(name, place)
        return len(low) == len(shape) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def run(self, context: IExecutionContext, values: Sequence[torch.Tensor]) -> Flat:
        """Queue one run, and wait for it only where an output's shape or memory wants that."""
        self.bind(context, values)
        made, open_ones = self.bind_outputs(context)
        with self.device.stream() as stream:
            self.launch(context, stream)
        if open_ones or not self.is_steady:
            self.device.wait()
        return tuple(
            taken(open_ones[port.name], port.dtype) if port.name in open_ones else made[port.name]
            for port in self.outputs
        )

    def bind(self, context: IExecutionContext, values: Sequence[torch.Tensor]) -> None:
        """Give a context the shapes and addresses of its inputs."""
        for port, value in zip(self.inputs, values, strict=True):
            if not context.set_input_shape(port.name, tuple(value.shape)):
                raise BackendError(f"TensorRT takes no {port.name!r} of shape {tuple(value.shape)}: {said(self.kept)}")
            self._address(context, port.name, value)
        missing = context.infer_shapes()
        if missing:
            raise BackendError(f"TensorRT lacks the values of {', '.join(missing)}, which decide shapes")

    def bind_outputs(self, context: IExecutionContext) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Memory for the outputs: tensors of known shape, and allocators for those whose shape is computed."""
        made: dict[str, torch.Tensor] = {}
        open_ones: dict[str, Any] = {}
        for port in self.outputs:
            shape = tuple(context.get_tensor_shape(port.name))
            if -1 in shape:
                open_ones[port.name] = allocator(self.trt, self.device.device)
                context.set_output_allocator(port.name, open_ones[port.name])
                continue
            place = torch.device("cpu") if port.host else self.device.device
            made[port.name] = torch.empty(shape, dtype=port.dtype, device=place)
            self._address(context, port.name, made[port.name])
        return made, open_ones

    def _address(self, context: IExecutionContext, name: str, value: torch.Tensor) -> None:
        # An empty tensor has no memory, and TensorRT wants an address all the same.
        context.set_tensor_address(name, value.data_ptr() or self._empty.data_ptr())

    def launch(self, context: IExecutionContext, stream: int) -> None:
        """Queue what was bound on a stream."""
        if not context.execute_async_v3(stream):
            raise BackendError(f"TensorRT fails on the inputs: {said(self.kept)}", "run tersor diff to find where")
