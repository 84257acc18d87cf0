"""The part of TensorRT's Python interface that the backend calls: names and signatures."""

from __future__ import annotations

SIGNATURES = """
class Builder():
    def __init__(logger: ILogger)
    def build_serialized_network(network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory
    def create_builder_config() -> IBuilderConfig
    def create_network(flags: int = 0) -> INetworkDefinition
    def create_optimization_profile() -> IOptimizationProfile
class BuilderFlag():
    members: REFIT, STRIP_PLAN, TF32, SPARSE_WEIGHTS, VERSION_COMPATIBLE
class DataType():
    members: FLOAT, HALF, BF16, INT8, INT32, INT64, BOOL, UINT8, FP8, INT4
class EngineInspector():
    execution_context: IExecutionContext
    def get_engine_information(format: LayerInformationFormat) -> str
class HardwareCompatibilityLevel():
    members: NONE, AMPERE_PLUS, SAME_COMPUTE_CAPABILITY
class IBuilderConfig():
    def add_optimization_profile(profile: IOptimizationProfile) -> int
    builder_optimization_level: int
    def clear_flag(flag: BuilderFlag)
    def create_timing_cache(serialized_timing_cache: bytes) -> ITimingCache
    def get_flag(flag: BuilderFlag) -> bool
    def get_timing_cache() -> ITimingCache
    hardware_compatibility_level: HardwareCompatibilityLevel
    profiling_verbosity: ProfilingVerbosity
    def set_flag(flag: BuilderFlag)
    def set_memory_pool_limit(pool: MemoryPoolType, pool_size: int)
    def set_timing_cache(cache: ITimingCache, ignore_mismatch: bool) -> bool
class ICudaEngine():
    def create_engine_inspector() -> EngineInspector
    def create_execution_context(runtime_config: IRuntimeConfig = None) -> IExecutionContext
    def get_tensor_dtype(name: str) -> DataType
    def get_tensor_location(name: str) -> TensorLocation
    def get_tensor_mode(name: str) -> TensorIOMode
    def get_tensor_name(index: int) -> str
    def get_tensor_profile_shape(name: str, profile_index: int) -> list[Dims]
    def get_tensor_shape(name: str) -> Dims
    num_io_tensors: int  # read-only
    num_optimization_profiles: int  # read-only
    refittable: bool  # read-only
class IExecutionContext():
    def execute_async_v3(stream_handle: int) -> bool
    def get_tensor_shape(name: str) -> Dims
    def infer_shapes() -> list[str]
    profiler: IProfiler
    def set_input_shape(name: str, shape: tuple) -> bool
    def set_optimization_profile_async(profile_index: int, stream_handle: int) -> bool
    def set_output_allocator(name: str, output_allocator: IOutputAllocator) -> bool
    def set_tensor_address(name: str, memory: int) -> bool
class IHostMemory():
    nbytes: int  # read-only
class ILogger():
    ERROR
    INFO
    INTERNAL_ERROR
    VERBOSE
    WARNING
    def __init__()
    def log(severity: ILogger.Severity, msg: str)
class INetworkDefinition():
    def get_input(index: int) -> ITensor
    num_inputs: int  # read-only
class IOptimizationProfile():
    def set_shape(input: str, min: Dims, opt: Dims, max: Dims)
class IOutputAllocator():
    def __init__()
class IProfiler():
    def __init__()
    def report_layer_time(layer_name: str, ms: float)
class ITensor():
    name: str
class ITimingCache():
    def combine(input_cache: ITimingCache, ignore_mismatch: bool) -> bool
    def serialize() -> IHostMemory
class LayerInformationFormat():
    members: ONELINE, JSON
class Logger(ILogger):
    def __init__(min_severity: ILogger.Severity = ...)
    def log(severity: ILogger.Severity, msg: str)
class MemoryPoolType():
    members: WORKSPACE
class NetworkDefinitionCreationFlag():
    members: STRONGLY_TYPED
class OnnxParser():
    def __init__(network: INetworkDefinition, logger: ILogger)
    def get_error(index: int) -> ParserError
    num_errors: int  # read-only
    def parse_from_file(model: str) -> bool
    def supports_model_v2(model: bytes, path: str = None) -> bool
class OnnxParserRefitter():
    def __init__(refitter: Refitter, logger: ILogger)
    def get_error(index: int) -> ParserError
    num_errors: int  # read-only
    def refit_from_file(model: str) -> bool
class ParserError():
    def desc() -> str
    def node_name() -> str
    def node_operator() -> str
class ProfilingVerbosity():
    members: LAYER_NAMES_ONLY, DETAILED, NONE
class Refitter():
    def __init__(engine: ICudaEngine, logger: ILogger)
    def get_missing_weights() -> list[str]
    def refit_cuda_engine() -> bool
class Runtime():
    def __init__(logger: ILogger)
    def deserialize_cuda_engine(serialized_engine: bytes) -> ICudaEngine
    engine_host_code_allowed: bool
class TensorIOMode():
    members: NONE, INPUT, OUTPUT
class TensorLocation():
    members: DEVICE, HOST
"""
