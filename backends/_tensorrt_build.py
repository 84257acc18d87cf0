"""From an ONNX file to a serialized engine: parse, profiles, configuration, timing cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tersor.backends._tensorrt_api import (
    Builder,
    IBuilderConfig,
    IHostMemory,
    ILogger,
    INetworkDefinition,
    IOptimizationProfile,
    OnnxParser,
    ParserError,
    Trt,
    said,
)
from tersor.backends._tensorrt_cache import load_cache, save_cache
from tersor.backends._tensorrt_options import HARDWARE, Options
from tersor.backends._tensorrt_profiles import Profile
from tersor.errors import BackendError


def build(
    trt: Trt,
    kept: ILogger,
    path: Path,
    profiles: Sequence[Profile],
    options: Options,
    *,
    sparse: bool = False,
    cache: Path | None = None,
) -> bytes:
    """The engine of an ONNX file, serialized; raises BackendError with what TensorRT says.

    Args:
        trt, kept: the module, and the logger of `_tensorrt_api.logger`.
        path: of the ONNX file; its external data lies beside it.
        profiles: for the dynamic inputs; none where all shapes are fixed.
        options: of the backend.
        sparse: whether the model has 2:4 weights.
        cache: file of what earlier builds timed; read, and written back with what this one adds.
    """
    builder: Builder = trt.Builder(kept)
    network: INetworkDefinition = builder.create_network(strongly_typed(trt))
    parse(trt, kept, network, path)
    config: IBuilderConfig = builder.create_builder_config()
    configure(trt, config, options, sparse)
    for profile in profiles:
        _add_profile(builder, network, config, profile)
    if cache is not None:
        load_cache(config, cache)
    plan: IHostMemory | None = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(f"TensorRT cannot build the model: {said(kept)}", "tersor lint names what it rejects")
    if cache is not None:
        save_cache(config, cache)
    return bytes(plan)


def strongly_typed(trt: Trt) -> int:
    """The flag that TensorRT 10 wants and 11 ignores: types are those that the network says."""
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def parse(trt: Trt, kept: ILogger, network: INetworkDefinition, path: Path) -> None:
    """Read an ONNX file into a network; raises BackendError that names the nodes that were refused."""
    parser: OnnxParser = trt.OnnxParser(network, kept)
    if parser.parse_from_file(str(path)):
        return
    reasons = [_reason(parser.get_error(index)) for index in range(parser.num_errors)]
    raise BackendError(
        f"TensorRT's parser refuses the model: {'; '.join(reasons[:5]) or said(kept)}",
        "tersor lint MODEL --backend tensorrt names what it rejects, and the fix",
    )


def _reason(error: ParserError) -> str:
    where = f"{error.node_operator()} {error.node_name()!r}" if error.node_operator() else "the model"
    return f"{where}: {' '.join(error.desc().split())}"


def configure(trt: Trt, config: IBuilderConfig, options: Options, sparse: bool) -> None:
    """Set everything that the options say."""
    config.builder_optimization_level = options.level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace * 2**30))
    wanted = (
        (trt.BuilderFlag.TF32, options.tf32),
        (trt.BuilderFlag.SPARSE_WEIGHTS, sparse and options.sparse),
        (trt.BuilderFlag.REFIT, options.refit or options.strip),
        (trt.BuilderFlag.STRIP_PLAN, options.strip),
        (trt.BuilderFlag.VERSION_COMPATIBLE, options.compatible),
    )
    for flag, on in wanted:
        if on:
            config.set_flag(flag)
        else:
            config.clear_flag(flag)
    if HARDWARE[options.hardware] == "AMPERE_PLUS":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    elif HARDWARE[options.hardware] == "SAME_COMPUTE_CAPABILITY":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY


def _add_profile(builder: Builder, network: INetworkDefinition, config: IBuilderConfig, profile: Profile) -> None:
    made: IOptimizationProfile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        name = network.get_input(index).name
        if name in profile.shapes:
            low, usual, high = profile.shapes[name]
            made.set_shape(name, low, usual, high)
    if config.add_optimization_profile(made) < 0:
        raise BackendError("TensorRT refuses the profile of the dynamic shapes", "give other sizes with shapes=")
