"""Two scripts of a saved folder that need TensorRT and PyTorch only: one builds the engine, one runs it."""

from __future__ import annotations

from collections.abc import Sequence

from tersor.backends._tensorrt_options import HARDWARE, Options
from tersor.backends._tensorrt_profiles import Profile
from tersor.interface import Flat
from tersor.program import Program

_BUILD = '''\
"""Builds model.plan from model.onnx, for the GPU and the TensorRT version of this machine."""
from pathlib import Path
import tensorrt as trt

PROFILES = {profiles}
FOLDER = Path(__file__).parent
logger = trt.Logger(trt.Logger.WARNING)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
if not parser.parse_from_file(str(FOLDER / "model.onnx")):
    raise SystemExit("\\n".join(parser.get_error(index).desc() for index in range(parser.num_errors)))
config = builder.create_builder_config()
config.builder_optimization_level = {level}
config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
{settings}
for shapes in PROFILES:
    profile = builder.create_optimization_profile()
    for name, (low, usual, high) in shapes.items():
        profile.set_shape(name, low, usual, high)
    config.add_optimization_profile(profile)
plan = builder.build_serialized_network(network, config)
if plan is None:
    raise SystemExit("TensorRT cannot build the model; its messages are above")
(FOLDER / "model.plan").write_bytes(bytes(plan))
'''

_RUN = '''\
"""Runs model.plan, which build.py makes, on tensors of ones."""
from pathlib import Path
import tensorrt as trt, torch

SHAPES = {shapes}
DTYPES = {{trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16, trt.DataType.BF16: torch.bfloat16,
          trt.DataType.INT32: torch.int32, trt.DataType.INT64: torch.int64, trt.DataType.BOOL: torch.bool,
          trt.DataType.UINT8: torch.uint8, trt.DataType.INT8: torch.int8}}
runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
runtime.engine_host_code_allowed = True
engine = runtime.deserialize_cuda_engine((Path(__file__).parent / "model.plan").read_bytes())
context = engine.create_execution_context()
names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
tensors = {{}}
for name in (name for name in names if name in SHAPES):
    tensors[name] = torch.ones(SHAPES[name], device="cuda").to(DTYPES[engine.get_tensor_dtype(name)])
    context.set_input_shape(name, tuple(SHAPES[name]))
for name in (name for name in names if name not in SHAPES):
    shape = tuple(context.get_tensor_shape(name))
    tensors[name] = torch.empty(shape, device="cuda", dtype=DTYPES[engine.get_tensor_dtype(name)])
for name, tensor in tensors.items():
    context.set_tensor_address(name, tensor.data_ptr())
stream = torch.cuda.Stream()
stream.wait_stream(torch.cuda.current_stream())
context.execute_async_v3(stream.cuda_stream)
stream.synchronize()
print({{name: tuple(tensor.shape) for name, tensor in tensors.items() if name not in SHAPES}})
'''


def build_script(profiles: Sequence[Profile], options: Options, *, sparse: bool) -> str:
    """``build.py``."""
    shown = [{name: [list(shape) for shape in sizes] for name, sizes in one.shapes.items()} for one in profiles]
    return _BUILD.format(profiles=repr(shown), level=options.level, settings="\n".join(_settings(options, sparse)))


def _settings(options: Options, sparse: bool) -> list[str]:
    flags = [
        name
        for name, on in (
            ("SPARSE_WEIGHTS", sparse and options.sparse),
            ("REFIT", options.refit or options.strip),
            ("STRIP_PLAN", options.strip),
            ("VERSION_COMPATIBLE", options.compatible),
        )
        if on
    ]
    made = [f"config.set_flag(trt.BuilderFlag.{name})" for name in flags]
    made += [f"config.{'set' if options.tf32 else 'clear'}_flag(trt.BuilderFlag.TF32)"]
    if options.workspace:
        made.append(f"config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, {int(options.workspace * 2**30)})")
    if HARDWARE[options.hardware]:
        level = f"trt.HardwareCompatibilityLevel.{HARDWARE[options.hardware]}"
        made.append(f"config.hardware_compatibility_level = {level}")
    return made


def run_script(program: Program, inputs: Flat) -> str:
    """``run.py``."""
    shapes = {name: list(value.shape) for name, value in zip(program.interface.input_names, inputs, strict=True)}
    return _RUN.format(shapes=repr(shapes))
