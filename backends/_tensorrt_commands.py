"""The commands of trtexec and polygraphy that build, time, profile and compare a saved model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from tersor.backends._tensorrt_options import Options
from tersor.backends._tensorrt_profiles import Profile, Shape

_HARDWARE = {"ampere": "ampere+", "capability": "sameComputeCapability"}
_WHICH = ("min", "opt", "max")


def script(
    profiles: Sequence[Profile],
    options: Options,
    *,
    sparse: bool,
    example: Mapping[str, Shape],
    tolerance: tuple[float, float] = (1e-3, 1e-3),
) -> str:
    """A shell script: build with trtexec, time it, profile its layers, compare with ONNX Runtime in polygraphy."""
    parts = (
        ("Build the engine; types are those of the file", build(profiles, options, sparse)),
        ("Measure it", measure(example)),
        ("Time each layer", layers(example)),
        ("What the parser does not take, if anything", ["polygraphy", "inspect", "capability", "model.onnx"]),
        ("Compare with ONNX Runtime", compare(profiles, options, sparse, example, tolerance)),
    )
    lines = ["#!/bin/sh", "# Each command stands by itself; run them in this folder.", "set -e"]
    for title, command in parts:
        lines += ["", f"# {title}.", _line(command)]
    return "\n".join(lines) + "\n"


def _line(command: Sequence[str]) -> str:
    return " \\\n  ".join(shlex.quote(part) for part in command)


def build(profiles: Sequence[Profile], options: Options, sparse: bool) -> list[str]:
    """trtexec's arguments; of several profiles the first."""
    made = ["trtexec", "--onnx=model.onnx", "--saveEngine=model.plan", "--stronglyTyped", "--skipInference"]
    made += ["--profilingVerbosity=detailed", f"--builderOptimizationLevel={options.level}"]
    made += [] if options.tf32 else ["--noTF32"]
    made += ["--sparsity=enable"] if sparse and options.sparse else []
    made += [f"--memPoolSize=workspace:{int(options.workspace * 1024)}"] if options.workspace else []
    made += ["--refit"] if options.refit or options.strip else []
    made += ["--stripWeights"] if options.strip else []
    made += ["--versionCompatible"] if options.compatible else []
    made += [f"--hardwareCompatibilityLevel={_HARDWARE[options.hardware]}"] if options.hardware in _HARDWARE else []
    made += ["--timingCacheFile=timing.cache"] if options.cache != "none" else []
    for place, which in enumerate(_WHICH):
        shapes = {name: sizes[place] for name, sizes in profiles[0].shapes.items()} if profiles else {}
        made += [f"--{which}Shapes={_sizes(shapes)}"] if shapes else []
    return made


def measure(example: Mapping[str, Shape]) -> list[str]:
    """Latency with CUDA graphs and without copies to and from the host."""
    return [
        "trtexec", "--loadEngine=model.plan", *_shapes(example), "--useCudaGraph", "--useSpinWait", "--noDataTransfers",
        "--warmUp=500", "--duration=10",
    ]  # fmt: skip


def layers(example: Mapping[str, Shape]) -> list[str]:
    """Times and types of layers, as tables and as JSON."""
    return [
        "trtexec", "--loadEngine=model.plan", *_shapes(example), "--dumpProfile", "--separateProfileRun",
        "--exportProfile=profile.json", "--dumpLayerInfo", "--exportLayerInfo=layers.json",
    ]  # fmt: skip


def compare(
    profiles: Sequence[Profile],
    options: Options,
    sparse: bool,
    example: Mapping[str, Shape],
    tolerance: tuple[float, float],
) -> list[str]:
    """Polygraphy builds its own engine, so that it can be used where trtexec is not installed."""
    made = ["polygraphy", "run", "model.onnx", "--trt", "--onnxrt", "--strongly-typed"]
    made += ["--tf32"] if options.tf32 else []
    made += ["--sparse-weights"] if sparse and options.sparse else []
    made += ["--builder-optimization-level", str(options.level)]
    made += ["--refittable"] if options.refit or options.strip else []
    made += ["--version-compatible"] if options.compatible else []
    for place, which in enumerate(_WHICH):
        for profile in profiles[:1]:
            shapes = {name: sizes[place] for name, sizes in profile.shapes.items()}
            made += [f"--trt-{which}-shapes", *_listed(shapes)] if shapes else []
    made += ["--input-shapes", *_listed(example)] if example else []
    return [*made, "--atol", f"{tolerance[0]:g}", "--rtol", f"{tolerance[1]:g}"]


def _shapes(example: Mapping[str, Shape]) -> list[str]:
    return [f"--shapes={_sizes(example)}"] if example else []


def _sizes(shapes: Mapping[str, Shape]) -> str:
    """As trtexec reads them.

    >>> _sizes({"x": (1, 3, 8), "n": (1,)})
    'x:1x3x8,n:1'
    """
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def _listed(shapes: Mapping[str, Shape]) -> list[str]:
    """As polygraphy reads them.

    >>> _listed({"x": (1, 3)})
    ['x:[1,3]']
    """
    return [f"{name}:[{','.join(map(str, shape))}]" for name, shape in shapes.items()]
