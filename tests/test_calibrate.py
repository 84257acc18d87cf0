"""Statistics equal what forward hooks of eager PyTorch see."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersor.calibrate import Tap, norms, plain_window, statistics
from tersor.errors import InputError, UsageError
from tersor.interface import Flat
from tersor.program import Program
from tersor.rewrite_values import key
from tests.importance.models import Attention, Convolutions, captured, drawn, seeded, standard


def batches() -> list[Flat]:
    return [(drawn(rows, 7, 5, seed=rows),) for rows in (5, 4, 2)]


def seen(model: nn.Module, name: str, inputs: list[Flat]) -> tuple[Tensor, Tensor]:
    """What a module reads and returns, over all inputs, rows of features."""
    read, made = [], []

    def hook(module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
        read.append(args[0].double().flatten(0, -2))
        made.append(result.double().flatten(0, -2))

    handle = model.get_submodule(name).register_forward_hook(hook)
    with torch.no_grad():
        for flat in inputs:
            model(*flat)
    handle.remove()
    return torch.cat(read), torch.cat(made)


def reader(program: Program, weight: str) -> tuple[str, str]:
    """The node that multiplies with a weight, and what it reads."""
    (node,) = [n for n in program.nodes if any(str(s.target) == weight for s in n.all_input_nodes)]
    return node.name, node.all_input_nodes[0].name


@pytest.mark.parametrize("name", ["query", "out", "head"])
def test_sums_equal_those_of_hooks(name: str) -> None:
    model = seeded(Attention)
    program = captured(model, drawn(2, 7, 5)).program
    node, source = reader(program, f"{name}.weight")
    read, own = Tap(node, source, -1), Tap(node, node, 2)
    found = statistics(program, [read, own], batches(), gram=True, samples=None, precise=True)
    for tap, rows in zip((read, own), seen(model, name, batches()), strict=True):
        item = found[tap]
        assert item.count == item.samples == len(rows) == 11 * 7
        torch.testing.assert_close(item.mean, rows.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(item.square, rows.square().mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(item.variance, rows.var(0, correction=0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(item.gram, rows.T @ rows, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(item.gram_mean, rows.mean(0), rtol=1e-5, atol=1e-6)


def test_how_inputs_are_batched_does_not_matter() -> None:
    program = standard(Attention, 7, 5).program
    tap = Tap(*reader(program, "out.weight"), -1)
    together = [(torch.cat([flat[0] for flat in batches()]),)]
    apart = statistics(program, [tap], batches(), gram=True, samples=None)[tap]
    whole = statistics(program, [tap], together, gram=True, samples=None)[tap]
    torch.testing.assert_close(apart.gram, whole.gram, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(apart.mean, whole.mean)


def test_patches_are_those_of_unfold() -> None:
    model = seeded(Convolutions)
    program = captured(model, drawn(2, 3, 9, 9)).program
    images = drawn(3, 3, 9, 9, seed=4)
    taps = {name: Tap(*reader(program, f"{name}.weight"), 1) for name in ("first", "depthwise", "grouped", "last")}
    found = statistics(program, taps.values(), [(images,)], gram=True, samples=None, precise=True)
    read: dict[str, Tensor] = {}
    for name in taps:
        model.get_submodule(name).register_forward_hook(lambda _, args, __, name=name: read.update({name: args[0]}))
    with torch.no_grad():
        model(images)
    for name, tap in taps.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        assert not isinstance(layer.padding, str)
        columns = F.unfold(read[name].double(), layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        grouped = columns.transpose(1, 2).flatten(0, 1).unflatten(1, (layer.groups, -1)).transpose(0, 1)
        torch.testing.assert_close(found[tap].gram, grouped.mT @ grouped, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(found[tap].gram_mean, grouped.mean(1), rtol=1e-5, atol=1e-5)
        square = read[name].double().square().mean((0, 2, 3))
        torch.testing.assert_close(found[tap].square, square, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, bias=False), (2, 4, 11)),
        (nn.Conv3d(2, 3, (1, 2, 3), padding=(0, 1, 1), bias=False), (2, 2, 3, 4, 5)),
        (nn.Conv2d(2, 3, (4, 3), padding="same", bias=False), (2, 2, 6, 5)),
        (nn.Conv2d(2, 3, 2, padding="valid", bias=False), (2, 2, 6, 5)),
    ],
)
def test_patches_times_weights_are_the_convolution(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """``sum y^2 = trace(W G W^T)`` without a bias, for any window."""
    program = captured(layer, drawn(*shape)).program
    (node,) = [n for n in program.nodes if key(n).startswith("conv")]
    tap = Tap(node.name, node.all_input_nodes[0].name, 1)
    images = drawn(*shape, seed=5)
    found = statistics(program, [tap], [(images,)], gram=True, samples=None, precise=True)[tap]
    assert found.gram is not None and plain_window(node) is not None
    weight = layer.get_parameter("weight").detach().double().unflatten(0, (len(found.gram), -1)).flatten(2)
    with torch.no_grad():
        wanted = layer(images).double().square().sum()
    torch.testing.assert_close((weight @ found.gram * weight).sum(), wanted, rtol=1e-5, atol=1e-5)


def test_channels_instead_of_patches() -> None:
    program = standard(Convolutions, 3, 9, 9).program
    tap = Tap(*reader(program, "first.weight"), 1)
    images = drawn(3, 3, 9, 9, seed=4)
    found = statistics(program, [tap], [(images,)], gram=True, patches=False, samples=None)[tap]
    rows = images.double().movedim(1, -1).flatten(0, 2)
    torch.testing.assert_close(found.gram, rows.T @ rows, rtol=1e-5, atol=1e-4)


def test_drawn_samples_are_bounded_reproducible_and_close() -> None:
    program = standard(Convolutions, 3, 9, 9).program
    tap = Tap(*reader(program, "first.weight"), 1)
    inputs = [(drawn(40, 3, 9, 9, seed=seed),) for seed in (4, 5)]

    def gram(samples: int | None, seed: int = 0) -> Tensor:
        found = statistics(program, [tap], inputs, gram=True, samples=samples, seed=seed)[tap]
        assert found.samples == 2 * min(samples or 10**9, 40 * 81) and found.gram is not None
        return found.gram / found.samples

    assert torch.equal(gram(1000), gram(1000)) and not torch.equal(gram(1000), gram(1000, seed=1))
    whole = gram(None)
    assert (gram(1500) - whole).norm() < 0.15 * whole.norm()


def test_norms_are_root_mean_squares() -> None:
    model = seeded(Attention)
    program = captured(model, drawn(2, 7, 5)).program
    node, _ = reader(program, "out.weight")
    _, rows = seen(model, "out", batches())
    assert norms(program, [node], batches())[node] == pytest.approx(float(rows.square().mean().sqrt()), rel=1e-5)


def test_inputs_are_not_kept() -> None:
    program = standard(Attention, 7, 5).program
    node, source = reader(program, "out.weight")
    earlier: list[weakref.ref[Tensor]] = []

    def inputs() -> Iterator[Flat]:
        for seed in range(4):
            gc.collect()
            assert sum(ref() is not None for ref in earlier) <= 1, "only the last input may be alive"
            value = drawn(4, 7, 5, seed=seed)
            earlier.append(weakref.ref(value))
            yield (value,)

    assert statistics(program, [Tap(node, source, -1)], inputs())[Tap(node, source, -1)].count == 4 * 4 * 7


class Counting:
    """A progress that counts."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def __enter__(self) -> Counting:
        return self

    def __exit__(self, *error: object) -> None: ...

    def stage(self, name: str, total: int | None = None) -> None:
        self.told.append((name, total))

    def advance(self, amount: int = 1, detail: str = "") -> None:
        self.told.append(amount)

    def message(self, text: str) -> None: ...


def test_progress_is_told_of_each_input() -> None:
    program = standard(Attention, 7, 5).program
    progress = Counting()
    statistics(program, [Tap(*reader(program, "out.weight"), -1)], batches(), progress=progress)
    assert progress.told == [("calibrate", 3), 1, 1, 1]


@pytest.mark.parametrize(
    ("tap", "message"),
    [
        (Tap("nothing", "linear", -1), "no node 'nothing'"),
        (Tap("linear_1", "linear_3", -1), "does not read"),
        (Tap("linear", "linear", 3), "no dimension 3"),
        (Tap("linear", "linear", 0), "differs from call to call"),
    ],
)
def test_a_tap_that_does_not_fit_says_why(tap: Tap, message: str) -> None:
    program = standard(Attention, 7, 5).program
    with pytest.raises(UsageError, match=message):
        statistics(program, [tap], batches())


def test_inputs_that_do_not_fit_say_why() -> None:
    program = standard(Attention, 7, 5).program
    tap = Tap("linear", "linear", -1)
    with pytest.raises(InputError, match="no calibration inputs"):
        statistics(program, [tap], [])
    with pytest.raises(InputError, match="wanted"):
        statistics(program, [tap], [(drawn(4, 7, 6),)])
