"""``tersor predict``: how long a model would take on a device that need not be here."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tersor.cli import options
from tersor.cli.output import print_json, print_table, stdout_kept

if TYPE_CHECKING:
    from tersor.cost.predict import Layer, Prediction

_MOST_LAYERS = 40


def predict(
    model: options.Model,
    target: options.TargetName = "cpu",
    batch: Annotated[
        str, typer.Option("--batch", metavar="N,N,...", help="Batch sizes; default: that of the example inputs.")
    ] = "",
    dtype: Annotated[
        str,
        typer.Option("--dtype", metavar="D,D,...", help="float32, tf32, fp16, bf16, fp8, int8, amp; or as captured."),
    ] = "",
    backend: Annotated[
        str, typer.Option("--backend", metavar="NAME", help="Whose fusion rules hold; eager fuses nothing.")
    ] = "inductor",
    layers: Annotated[bool, typer.Option("--layers", help="Show the slowest launches one by one.")] = False,
    dim: options.Dims = None,
    inputs: options.Inputs = None,
    json: options.Json = False,
) -> None:
    """Predict time, its interval, its lower bound and the memory of a model on a device, without running it."""
    from tersor.cost.precision import precision_named
    from tersor.target import named

    device = named(target)
    sizes, precisions = batches(batch), [precision_named(name.strip()) for name in dtype.split(",")]
    _check_backend(backend)
    _check_sheet(device.name, bool(device.rates))
    with stdout_kept():
        program = options.load(model, dim, inputs)
        from tersor.cost.predict import cost

        found = [cost(program, device, backend, precision, size) for precision in precisions for size in sizes]
    if json:
        print_json({"model": model, "predictions": [facts(one, layers) for one in found]})
        return
    print(f"{model} on {device.product or device.name}, {backend} fusion\n")
    _show(found)
    for one in found if layers else ():
        _show_layers(one)


def batches(text: str) -> list[int | None]:
    """Batch sizes from ``"1,8"``; raises UsageError.

    >>> batches("1,8"), batches("")
    ([1, 8], [None])
    """
    from tersor.errors import UsageError

    if not text:
        return [None]
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--batch is {text!r}, wanted positive numbers", "for example --batch 1,8,64")
    return [int(part) for part in parts]


def facts(found: Prediction, layers: bool) -> dict[str, Any]:
    """A prediction as plain values, in seconds, operations and bytes."""
    values = {field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.name != "layers"}
    values["launches"] = len(found.layers)
    if layers:
        values["layers"] = [dataclasses.asdict(layer) for layer in found.layers]
    return values


def _check_backend(name: str) -> None:
    from difflib import get_close_matches

    from tersor.cost.launches import FUSION
    from tersor.errors import UsageError

    if name not in FUSION:
        near = get_close_matches(name, FUSION, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(FUSION)}"
        raise UsageError(f"--backend is {name!r}, whose fusion rules are not known", hint)


def _check_sheet(name: str, known: bool) -> None:
    from tersor.errors import UsageError

    if not known:
        remedy = (
            "measure it first: tersor targets --measure" if name == "cpu" else "choose a device of 'tersor targets'"
        )
        raise UsageError(f"nothing is known of how fast target {name!r} is", remedy)


def _show(found: list[Prediction]) -> None:
    rows = [
        (
            str(one.batch),
            one.precision or "as captured",
            _ms(one.seconds),
            f"{_ms(one.low)} to {_ms(one.high)}",
            _ms(one.bound),
            f"{one.batch / one.seconds:.0f}/s",
            str(len(one.layers)),
            f"{one.flops / 1e9:.2f}",
            f"{(one.weights + one.activations) / 1e6:.0f} MB",
        )
        for one in found
    ]
    columns = ("batch", "dtype", "ms", "nine times of ten", "bound", "rate", "launches", "GFLOP", "memory")
    print_table(columns, rows, right=(0, 2, 3, 4, 5, 6, 7, 8))


def _show_layers(found: Prediction) -> None:
    slowest = sorted(found.layers, key=lambda layer: -layer.seconds)
    shown = min(len(slowest), _MOST_LAYERS)
    print(f"\nbatch {found.batch}, {found.precision or 'as captured'}: the {shown} slowest launches")
    rows = [_layer_row(layer, found.seconds) for layer in slowest[:_MOST_LAYERS]]
    columns = ("launch", "kind", "size", "dtype", "us", "share", "bound", "limited by", "where")
    print_table(columns, rows, right=(4, 5, 6))


def _layer_row(layer: Layer, total: float) -> tuple[str, ...]:
    one = layer.launch
    size = f"{one.groups}x{one.m}x{one.n}x{one.k}" if one.k else f"{one.m}x{one.n}"
    return (
        layer.name, one.kind, size, one.dtype + (" 2:4" if one.sparse else ""), f"{layer.seconds * 1e6:.1f}",
        f"{layer.seconds / total:.1%}", f"{layer.bound * 1e6:.1f}",
        layer.limit + (", tensor cores" if layer.tensor_cores else ""), layer.origin,
    )  # fmt: skip


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4g}"
