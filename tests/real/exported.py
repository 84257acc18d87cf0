"""Files as users have them: written by PyTorch's two ONNX exporters."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tersor.models_zoo import ZooEntry

TIMM = (
    "resnet18",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "convnext_atto",
    "mobilenetv3_large_100",
    "efficientnet_b0",
)
HF = ("bert", "llama", "t5-encoder", "whisper-encoder", "clip-vision", "mamba", "qwen3-moe")
NOT_EXPORTABLE = ("t5-encoder", "qwen3-moe")
"""torch.onnx.export raises on these (torch 2.13, transformers 5): a view of a transpose, and grouped products."""

EXPORTERS = {"torch.export, opset 18": 18, "torch.export, opset 20": 20, "TorchScript, opset 17": 17}


def write(entry: ZooEntry, path: Path, exporter: str = "torch.export, opset 20") -> Path:
    """The entry's model as a file with its dynamic axes; raises what the exporter raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own, dozens of kinds
        if exporter.startswith("TorchScript"):
            _script(entry, path, EXPORTERS[exporter])
        else:
            _dynamo(entry, path, EXPORTERS[exporter])
    return path


def _dynamo(entry: ZooEntry, path: Path, opset: int) -> None:
    args, kwargs = arguments(entry)
    program = torch.onnx.export(
        entry.model, args, kwargs=kwargs, dynamic_shapes=entry.dynamic, dynamo=True, opset_version=opset, verbose=False
    )
    assert program is not None
    program.save(path)


def _script(entry: ZooEntry, path: Path, opset: int) -> None:
    axes = {"image": {0: "batch"}, "scores": {0: "batch"}}
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["scores"], "dynamic_axes": axes}
    assert isinstance(entry.inputs, tuple)
    torch.onnx.export(entry.model, entry.inputs, str(path), dynamo=False, opset_version=opset, **names)


def arguments(entry: ZooEntry) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments of the example call."""
    return ((), dict(entry.inputs)) if isinstance(entry.inputs, dict) else (entry.inputs, {})


def feeds(entry: ZooEntry, path: Path) -> list[dict[str, np.ndarray]]:
    """The example inputs by the file's input names, and again with other sizes of every dynamic axis."""
    from tests.real.compare import ports

    args, kwargs = arguments(entry)
    names = [port[0] for port in ports(path)[0]]
    values = [kwargs[name] for name in names] if kwargs else list(args)
    keys = names if kwargs else list(range(len(args)))
    axes = [dict(entry.dynamic[key] or {}) if entry.dynamic else {} for key in keys]
    other = [_resized(value, dims) for value, dims in zip(values, axes, strict=True)]
    return [{name: v.numpy() for name, v in zip(names, made, strict=True)} for made in (values, other)]


def against_eager(entry: ZooEntry, path: Path, feeds: list[dict[str, np.ndarray]]) -> float:
    """The largest difference between a file's first output and eager PyTorch's, as a share of its largest value."""
    from tests.real.compare import difference, session

    made, found = session(path), 0.0
    for feed in feeds:
        tensors = {name: torch.from_numpy(value) for name, value in feed.items()}
        with torch.no_grad():
            wanted = next(iter(entry.model(**tensors).values()))
        found = max(found, difference(wanted.numpy(), made.run(None, dict(feed))[0]))
    return found


def _resized(value: torch.Tensor, axes: dict[int, Any]) -> torch.Tensor:
    if 0 in axes:
        value = torch.cat([value, value[:1].flip(-1)])
    return value[:, : value.shape[1] - 5] if 1 in axes else value
