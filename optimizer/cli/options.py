"""Arguments and options that several commands share, and how their text becomes values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tersor.errors import InputError, ModelFileError, UsageError, first_line

if TYPE_CHECKING:
    from tersor.program import Program

MODEL_HELP = "ONNX file, or a name: zoo:NAME, timm:NAME, torchvision:NAME, hf:NAME."


def _complete_backend(incomplete: str) -> list[str]:
    from tersor.backend import backend_names

    return [name for name in ("auto", *backend_names()) if name.startswith(incomplete)]


def _complete_passes(incomplete: str) -> list[str]:
    from tersor.spec import pass_names

    done, comma, last = incomplete.rpartition(",")
    return [f"{done}{comma}{name}" for name in pass_names() if name.startswith(last)]


Model = Annotated[str, typer.Argument(metavar="IN", help=MODEL_HELP, show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no report.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Dims = Annotated[
    list[str] | None,
    typer.Option("--dim", metavar="NAME=SIZE", help="Example size of a dynamic dimension. Repeatable."),
]
Inputs = Annotated[
    Path | None, typer.Option("--inputs", metavar="FILE.npz", help="Example inputs, one array per input name.")
]
Calibration = Annotated[
    list[Path] | None,
    typer.Option(
        "--calibration",
        metavar="PATH",
        help="Unlabelled inputs for lossy passes: .npz, .npy, .txt, images, or a folder of them. Repeatable.",
    ),
]
Tokenizer = Annotated[
    Path | None, typer.Option("--tokenizer", metavar="FILE", help="tokenizer.json, for calibration with text.")
]
Pixels = Annotated[
    str,
    typer.Option("--pixels", metavar="HOW", help="Scale of images for calibration: imagenet, half, unit or none."),
]
Latency = Annotated[
    str | None,
    typer.Option("--latency", metavar="TIME", help="Wanted time of one run: 5ms, or 50% of the original's."),
]
MetricName = Annotated[
    str | None,
    typer.Option("--metric", metavar="MODULE:FUNCTION", help="Takes a model, returns a number; higher is better."),
]
Study = Annotated[
    str | None,
    typer.Option("--study", metavar="FILE|URL", help="Where the planner keeps its trials; default: the user's cache."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the last search for the same, or join one that runs.")
]
Recover = Annotated[
    str | None,
    typer.Option("--recover", metavar="HOW", help="After lossy passes: least-squares (default), bias, distill, none."),
]
Passes = Annotated[
    str | None,
    typer.Option(
        "--passes",
        metavar="SPEC",
        autocompletion=_complete_passes,
        help="Pipeline, as \"name,name{option=value}\"; see 'tersor passes'.",
    ),
]
TargetName = Annotated[str, typer.Option("--target", metavar="NAME", help="Device; see 'tersor targets'.")]
BackendName = Annotated[
    str,
    typer.Option(
        "--backend", metavar="NAME", autocompletion=_complete_backend, help="Runtime; auto keeps the fastest one."
    ),
]
Deploy = Annotated[
    str,
    typer.Option(
        "--deploy",
        metavar="NAME",
        autocompletion=_complete_backend,
        help="Runtime that the folder OUT is for; it need not be installed. Default: the one that was kept.",
    ),
]


def sizes(items: Sequence[str] | None) -> dict[str, int]:
    """Sizes by name; raises UsageError.

    >>> sizes(["batch=4", "tokens=128"])
    {'batch': 4, 'tokens': 128}
    """
    found: dict[str, int] = {}
    for item in items or ():
        name, equals, size = item.partition("=")
        if not (name and equals and size.isdecimal() and int(size) > 0):
            raise UsageError(f"--dim is {item!r}, wanted NAME=SIZE with a positive size", "for example --dim batch=4")
        found[name] = int(size)
    return found


def fraction(text: str) -> float:
    """A share of the whole, from ``"1%"`` or ``"0.01"``; raises UsageError.

    >>> fraction("1%"), fraction("0.5")
    (0.01, 0.5)
    """
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"--budget is {text!r}, wanted a share from 0% to 100%", "for example --budget 1%")
    return value


def arrays(path: Path | None) -> dict[str, Any] | None:
    """Tensors by name from a NumPy archive; pickled content is refused.

    Raises:
        InputError: there is no such file.
        ModelFileError: it is not a NumPy archive.
    """
    if path is None:
        return None
    if not path.is_file():
        raise InputError(f"--inputs: there is no file {str(path)!r}", "write it with numpy.savez(path, name=array)")
    import numpy
    import torch

    try:
        with numpy.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except Exception as error:  # zipfile, numpy and torch each have their own
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelFileError(
            f"--inputs {str(path)!r} is not an archive of numeric arrays: {line}",
            "write it with numpy.savez(path, name=array)",
        ) from None


def calibration(paths: Sequence[Path] | None, tokenizer: Path | None, pixels: str) -> list[Any]:
    """Calibration files; raises InputError for one that is not there, UsageError for an unknown scale."""
    from tersor.calibration_data import Files

    return [Files(path, tokenizer or "", pixels) for path in paths or ()]


def metric(name: str | None) -> Callable[[Any], float] | None:
    """The function ``module:function``, looked for in the working directory too; raises UsageError."""
    if name is None:
        return None
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise UsageError(f"--metric is {name!r}, wanted module:function", "for example --metric evaluate:accuracy")
    import importlib
    import os
    import sys

    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever the user's module raises
        line = first_line(error)
        raise UsageError(f"--metric {name!r} cannot be loaded: {type(error).__name__}: {line}", "check it") from None
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise UsageError(f"--metric {name!r} is no function", "it takes a model and returns a number")
    return found


def load(model: str, dims: Sequence[str] | None = None, inputs: Path | None = None) -> Program:
    """Capture what the user named; raises TersorError of the kind that fits."""
    wanted, given = sizes(dims), arrays(inputs)
    from tersor import capture

    return capture.load(model, given, sizes=wanted or None)
