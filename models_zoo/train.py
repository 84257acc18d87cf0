"""Trains a zoo model and stores its weights: ``python -m tersor.models_zoo.train digits-vit``."""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersor.errors import UsageError
from tersor.models_zoo import data, own
from tersor.models_zoo.evaluate import evaluator


@dataclass(frozen=True)
class Recipe:
    """How one model is trained: AdamW on a one-cycle schedule; images are turned, scaled and shifted a little.

    Weights are stored in ``stored``.
    """

    epochs: int
    rate: float
    decay: float = 0.05
    batch: int = 64
    smoothing: float = 0.05
    turn: float = 0.15
    shift: float = 0.12
    stored: torch.dtype = torch.float32


RECIPES = {
    "digits_cnn": Recipe(epochs=30, rate=4e-3),
    "digits_mobile": Recipe(epochs=40, rate=4e-3),
    "digits_vit": Recipe(epochs=120, rate=2e-3),
    "mnist_cnn": Recipe(epochs=12, rate=4e-3, shift=0.08),
    "mnist_vit": Recipe(epochs=12, rate=1.5e-3, batch=32, shift=0.08, stored=torch.float16),
    "text_encoder": Recipe(epochs=25, rate=2e-3),
    "tiny_lm": Recipe(epochs=8, rate=3e-3, decay=0.1, batch=16, smoothing=0.0, stored=torch.float16),
}


def train(name: str, *, seed: int = 0, progress: bool = True) -> tuple[nn.Module, float]:
    """The trained model in evaluation mode and its held-out score; the same for the same seed and thread count."""
    stem = name.removeprefix("zoo:").replace("-", "_")
    if stem not in RECIPES:
        raise UsageError(f"no training recipe for {name!r}", f"choose one of {', '.join(RECIPES)}")
    recipe, split = RECIPES[stem], data.load(own.DATA[stem]).train
    torch.manual_seed(seed)
    model = importlib.import_module(f"tersor.models_zoo.{stem}").build().train()
    steps = recipe.epochs * -(-len(split) // recipe.batch)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.rate, weight_decay=recipe.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, steps, pct_start=0.2)
    for epoch in range(recipe.epochs):
        loss = torch.zeros(())
        for inputs, labels in _batches(split, recipe):
            logits = model(*inputs).flatten(0, -2)
            loss = F.cross_entropy(logits, labels.flatten(), label_smoothing=recipe.smoothing)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if progress:
            print(f"{stem}: epoch {epoch + 1} of {recipe.epochs}, loss {float(loss.detach()):.3f}", flush=True)
    model.eval()
    return model, evaluator(own.DATA[stem])(model)


def _batches(split: data.Split, recipe: Recipe) -> Iterator[tuple[list[Tensor], Tensor]]:
    for rows in torch.randperm(len(split)).split(recipe.batch):
        inputs = [part[rows] for part in split.inputs]
        if inputs[0].dim() == 4:
            inputs = [_moved(inputs[0], recipe)]
        yield inputs, split.labels[rows]


def _moved(images: Tensor, recipe: Recipe) -> Tensor:
    """Each image turned (radians), scaled and shifted (share of half the width) by its own random amount."""
    count = len(images)
    angle = recipe.turn * torch.randn(count)
    scale = 1 + 0.08 * torch.randn(count)
    offset = recipe.shift * torch.randn(count, 2)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack([cosine, -sine, offset[:, 0], sine, cosine, offset[:, 1]], dim=1)
    grid = F.affine_grid(rows.view(count, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def save(model: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Stores the weights as safetensors in a floating-point format, whole or not at all."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({key: _stored(value, dtype) for key, value in model.state_dict().items()}, partial)
    partial.chmod(0o644)  # safetensors makes it private to the user
    partial.replace(path)


def _stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    return (value.to(dtype) if value.is_floating_point() else value).contiguous()


def main(arguments: list[str] | None = None) -> None:
    """Command line: trains the named models, or all, and prints their scores."""
    parser = argparse.ArgumentParser(prog="python -m tersor.models_zoo.train", description=__doc__)
    parser.add_argument("names", nargs="*", default=sorted(RECIPES), help="models to train; all when left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the weights; the package's own when left out")
    parser.add_argument("--threads", type=int, default=1, help="more threads add up in another order: other weights")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for name in options.names:
        start = time.perf_counter()
        model, score = train(name, seed=options.seed)
        path = own.weights_path(name.removeprefix("zoo:"))
        path = options.out / path.name if options.out else path
        save(model, path, RECIPES[path.stem].stored)
        size = path.stat().st_size / 1e6
        print(f"{name}: score {score:.4f}, {time.perf_counter() - start:.0f} s, {size:.2f} MB at {path}")


if __name__ == "__main__":
    main()
