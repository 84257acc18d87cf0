"""Where an engine runs: memory, streams and CUDA graphs of one device, as PyTorch has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch


class Device(Protocol):
    """What an engine needs of a device."""

    device: torch.device

    def stream(self) -> AbstractContextManager[int]:
        """A context in which work may be queued, with the handle of its stream."""

    def capture(self, run: Callable[[int], None]) -> Callable[[], None]:
        """Record what ``run`` queues on a stream, and give a function that queues all of it at once."""

    def wait(self) -> None:
        """Until everything that was queued is done."""


class Cuda:
    """The current CUDA device.

    TensorRT synchronizes more than need be on the default stream, so work from there goes through a stream of its own,
    which waits for what was queued before and is waited for.
    """

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self._own = torch.cuda.Stream(self.device)

    @contextmanager
    def stream(self) -> Iterator[int]:
        """See `Device`."""
        current = torch.cuda.current_stream(self.device)
        if current != torch.cuda.default_stream(self.device):
            yield int(current.cuda_stream)
            return
        self._own.wait_stream(current)
        with torch.cuda.stream(self._own):
            yield int(self._own.cuda_stream)
        current.wait_stream(self._own)

    def capture(self, run: Callable[[int], None]) -> Callable[[], None]:
        """See `Device`."""
        graph = torch.cuda.CUDAGraph()
        self._own.synchronize()
        with torch.cuda.graph(graph, stream=self._own, capture_error_mode="thread_local"):
            run(int(self._own.cuda_stream))
        replay: Callable[[], None] = graph.replay
        return replay

    def wait(self) -> None:
        """See `Device`."""
        torch.cuda.synchronize(self.device)
