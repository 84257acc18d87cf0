"""A stand-in for the tensorrt module: it enforces its signatures, records every call, and computes in ONNX Runtime.

What an engine computes is right, and its memory is where it was told that it is; nothing here says how fast TensorRT
is, or that its kernels are right.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import onnx
import onnx_ir as ir
import torch

from tersor.export.runtime import Session
from tests.backends.tensorrt_reference import Kind, Signature, parse
from tests.backends.tensorrt_signatures import SIGNATURES

KINDS = parse(SIGNATURES)
_HEAD = b"fake plan "
_PLAIN: dict[str, tuple[type, ...]] = {
    "int": (int,), "str": (str,), "bool": (bool,), "float": (int, float), "bytes": (bytes, bytearray),
    "tuple": (tuple,), "list": (list,), "Dims": (tuple, list),
}  # fmt: skip
_DTYPES = {
    onnx.TensorProto.FLOAT: ("FLOAT", torch.float32),
    onnx.TensorProto.FLOAT16: ("HALF", torch.float16),
    onnx.TensorProto.BFLOAT16: ("BF16", torch.bfloat16),
    onnx.TensorProto.INT64: ("INT64", torch.int64),
    onnx.TensorProto.INT32: ("INT32", torch.int32),
    onnx.TensorProto.BOOL: ("BOOL", torch.bool),
    onnx.TensorProto.UINT8: ("UINT8", torch.uint8),
}


class Member:
    """Of an enumeration."""

    def __init__(self, kind: str, name: str, value: int) -> None:
        self.kind, self.name, self.value = kind, name, value

    def __int__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return f"{self.kind}.{self.name}"


class Dims:
    """A shape; no tuple, as TensorRT's is none."""

    def __init__(self, sizes: Any) -> None:
        self._sizes = list(sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> int:
        return int(self._sizes[index])


class FakeTensorRT:
    """The module. ``calls`` holds ``(Class.method, arguments)``; what tests may set steers it.

    Attributes:
        refused: messages by ONNX operator that the parser does not take.
        unbuildable: what the builder logs before it gives up; empty builds.
        data_dependent: outputs whose shape is known only when they are computed.
        host: inputs and outputs in the CPU's memory.
    """

    def __init__(self, version: str = "11.4.0.106") -> None:
        self.__version__ = version
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.refused: dict[str, str] = {}
        self.unbuildable = ""
        self.data_dependent: set[str] = set()
        self.host: set[str] = set()
        for name, kind in KINDS.items():
            if name not in self.__dict__:
                setattr(self, name, _class(self, name, kind))

    def called(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for found, arguments in self.calls if found == name]


def _class(trt: FakeTensorRT, name: str, kind: Kind) -> Any:
    if kind.members:
        return SimpleNamespace(**{member: Member(name, member, index) for index, member in enumerate(kind.members)})
    base = [getattr(trt, item) if hasattr(trt, item) else _class(trt, item, KINDS[item]) for item in kind.bases]
    for item, made in zip(kind.bases, base, strict=True):
        setattr(trt, item, made)
    constants = {key: Member("Severity", key, 0) for key, value in kind.attributes.items() if value == "constant"}
    methods = {key: _method(trt, name, key, found) for key, found in kind.methods.items()}
    body = {"_trt": trt, "_kind": kind, "__setattr__": _set, **constants, **methods, **PROPERTIES.get(name, {})}
    return type(name, tuple(base), body)


def _set(self: Any, name: str, value: Any) -> None:
    """Only attributes that there are can be set, except by classes that tests or the backend derive."""
    kind: Kind = self._kind
    if type(self).__name__ == kind.name and not name.startswith("_"):
        assert name in kind.attributes and name not in kind.read_only, f"{kind.name}.{name} cannot be set"
        self._trt.calls.append((f"{kind.name}.{name}", (value,)))
    object.__setattr__(self, name, value)


def _method(trt: FakeTensorRT, kind: str, name: str, signatures: list[Signature]) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        objections = [_objection(trt, signature, args, kwargs) for signature in signatures]
        if all(objections):
            raise TypeError(f"{kind}.{name}{args}: {objections}")
        trt.calls.append((f"{kind}.{name}", (*args, *kwargs.values())))
        behaviour = BEHAVIOUR.get(f"{kind}.{name}")
        return behaviour(self, *args, **kwargs) if behaviour is not None else None

    return call


def _objection(trt: FakeTensorRT, signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    found = signature.objection(len(args), list(kwargs))
    if found:
        return found
    given = {**dict(zip([item.name for item in signature.parameters], args, strict=False)), **kwargs}
    for item in signature.parameters:
        if item.name in given and not _is_a(trt, given[item.name], item.annotation):
            return f"{item.name} is {type(given[item.name]).__name__}, wanted {item.annotation}"
    return ""


def _is_a(trt: FakeTensorRT, value: Any, annotation: str) -> bool:
    if annotation in _PLAIN:
        return isinstance(value, _PLAIN[annotation]) and not (annotation == "int" and isinstance(value, bool))
    if annotation not in KINDS:
        return True
    if KINDS[annotation].members:
        return isinstance(value, Member) and value.kind == annotation
    return isinstance(value, getattr(trt, annotation))


def _new(trt: FakeTensorRT, name: str, /, **values: Any) -> Any:
    made = object.__new__(getattr(trt, name))
    for key, value in values.items():
        object.__setattr__(made, key, value)
    return made


def _bare(self: Any, *args: Any) -> None:
    object.__setattr__(self, "_given", args)


def _memory(trt: FakeTensorRT, content: bytes) -> Any:
    return _new(trt, "IHostMemory", _content=content)


# ---- building


def _create_network(self: Any, flags: int = 0) -> Any:
    strong = 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return _new(self._trt, "INetworkDefinition", _strong=bool(flags & strong), _model=None)


def _create_config(self: Any) -> Any:
    return _new(self._trt, "IBuilderConfig", _flags={"TF32"}, _profiles=[], _cache=None, _entries=set())


def _parser(self: Any, network: Any, logger: Any) -> None:
    object.__setattr__(self, "_given", (network, logger))
    object.__setattr__(self, "_errors", [])


def _parse(self: Any, model: str) -> bool:
    loaded = onnx.load(model)
    if not _takes(self, loaded):
        return False
    self._given[0]._model = loaded
    return True


def _takes(self: Any, model: onnx.ModelProto) -> bool:
    refused = self._trt.refused
    errors = [
        _new(self._trt, "ParserError", _node=node, _text=refused[node.op_type])
        for node in model.graph.node
        if node.op_type in refused
    ]
    object.__setattr__(self, "_errors", errors)
    return not errors


def _dynamic(model: onnx.ModelProto) -> set[str]:
    return {
        value.name
        for value in model.graph.input
        if any(not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }


def _build(self: Any, network: Any, config: Any) -> Any:
    trt, logger = self._trt, self._given[0]
    missing = _dynamic(network._model) - set(config._profiles[0] if config._profiles else ())
    reason = trt.unbuildable or (f"no profile for {sorted(missing)}" if missing else "")
    if reason or not network._strong:
        logger.log(trt.ILogger.ERROR, reason or "the network is not strongly typed")
        return None
    if config._cache is not None:
        config._cache._entries.update(node.op_type for node in network._model.graph.node)
    head = {"flags": sorted(config._flags), "profiles": config._profiles}
    return _memory(trt, _HEAD + json.dumps(head).encode() + b"\n" + network._model.SerializeToString())


def _flag(config: Any, flag: Member, on: bool) -> None:
    config._flags.add(flag.name) if on else config._flags.discard(flag.name)


def _set_shape(self: Any, input: str, min: Any, opt: Any, max: Any) -> None:
    self._shapes[input] = [list(min), list(opt), list(max)]


def _add_profile(self: Any, profile: Any) -> int:
    self._profiles.append(profile._shapes)
    return len(self._profiles) - 1


def _create_cache(self: Any, content: bytes) -> Any:
    if content and not content.startswith(b"fake cache "):
        return None
    entries = set(content.removeprefix(b"fake cache ").decode().split(",")) - {""}
    return _new(self._trt, "ITimingCache", _entries=entries)


def _use_cache(self: Any, cache: Any, ignore: bool) -> bool:
    object.__setattr__(self, "_cache", cache)
    return True


def _combine(self: Any, other: Any, ignore: bool) -> bool:
    self._entries.update(other._entries)
    return True


def _written_cache(self: Any) -> Any:
    return _memory(self._trt, b"fake cache " + ",".join(sorted(self._entries)).encode())


# ---- running


def _load(self: Any, plan: bytes) -> Any:
    if not plan.startswith(_HEAD):
        self._given[0].log(self._trt.ILogger.ERROR, "the plan is of another version")
        return None
    head, _, content = plan.removeprefix(_HEAD).partition(b"\n")
    return _new(self._trt, "ICudaEngine", _head=json.loads(head), **_loaded(onnx.load_from_string(content)))


def _loaded(model: onnx.ModelProto) -> dict[str, Any]:
    weights = {item.name for item in model.graph.initializer}
    ports = [*(item for item in model.graph.input if item.name not in weights), *model.graph.output]
    session = Session(ir.from_proto(model), 1)
    return {"_model": model, "_session": session, "_ports": {port.name: port for port in ports}}


def _shape(engine: Any, name: str) -> list[int]:
    dims = engine._ports[name].type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims]


def _is_input(engine: Any, name: str) -> bool:
    return any(name == item.name for item in engine._model.graph.input)


def _range(self: Any, name: str, index: int) -> list[Dims]:
    shapes = self._head["profiles"][index] if self._head["profiles"] else {}
    return [Dims(shape) for shape in shapes.get(name, [_shape(self, name)] * 3)]


def _create_context(self: Any) -> Any:
    return _new(
        self._trt, "IExecutionContext", _engine=self, _place=0, _shapes={}, _addresses={}, _allocators={}, _made=None
    )


def _use_profile(self: Any, index: int, stream: int) -> bool:
    object.__setattr__(self, "_place", index)
    return True


def _set_input(self: Any, name: str, shape: tuple[int, ...]) -> bool:
    least, _, most = _range(self._engine, name, self._place)
    low, high = (list(cast(Any, item)) for item in (least, most))
    if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
        return False
    self._shapes[name] = tuple(shape)
    object.__setattr__(self, "_made", None)
    return True


def _address(self: Any, name: str, memory: int) -> bool:
    assert memory, f"{name} has no address"
    self._addresses[name] = memory
    return True


def _read(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    count = torch.Size(shape).numel()
    if not count:
        return torch.empty(shape, dtype=dtype)
    memory = (ctypes.c_byte * (count * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype).reshape(shape).clone()


def _compute(self: Any) -> dict[str, torch.Tensor]:
    engine = self._engine
    names = [name for name in engine._ports if _is_input(engine, name)]
    dtypes = {name: _DTYPES[engine._ports[name].type.tensor_type.elem_type][1] for name in names}
    inputs = [_read(self._addresses[name], self._shapes[name], dtypes[name]) for name in names]
    outputs = [name for name in engine._ports if name not in names]
    return dict(zip(outputs, engine._session.run(inputs), strict=True))


def _context_shape(self: Any, name: str) -> Dims:
    if _is_input(self._engine, name):
        return Dims(self._shapes[name])
    if name in self._trt.data_dependent:
        return Dims([-1])
    return Dims(_compute(self)[name].shape)


def _execute(self: Any, stream: int) -> bool:
    for name, value in _compute(self).items():
        value = value.contiguous()
        size = value.numel() * value.element_size()
        address = self._addresses.get(name)
        if name in self._allocators:
            found = self._allocators[name]
            address = found.reallocate_output_async(name, 0, max(size, 1), 256, stream)
            found.notify_shape(name, Dims(value.shape))
        ctypes.memmove(address, value.data_ptr(), size)
    profiler = self.__dict__.get("profiler")
    for index, node in enumerate(self._engine._model.graph.node if profiler is not None else ()):
        profiler.report_layer_time(node.name or node.op_type, 0.25 * (index + 1))
    return True


def _inspect(self: Any, format: Member) -> str:
    nodes = self.execution_context._engine._model.graph.node
    layers = [
        {"Name": node.name or node.op_type, "LayerType": node.op_type, "Outputs": [{"DataType": "Float"}]}
        for node in nodes
    ]
    return json.dumps({"Layers": layers})


def _refit_from(self: Any, model: str) -> bool:
    loaded = onnx.load(model)
    refitter, engine = self._given[0], self._given[0]._given[0]
    same = [node.op_type for node in loaded.graph.node] == [node.op_type for node in engine._model.graph.node]
    node = loaded.graph.node[0]
    errors = [] if same else [_new(self._trt, "ParserError", _node=node, _text="another graph")]
    object.__setattr__(self, "_errors", errors)
    object.__setattr__(refitter, "_model", loaded)
    return same


def _refit(self: Any) -> bool:
    for key, value in _loaded(self._model).items():
        object.__setattr__(self._given[0], key, value)
    return True


BEHAVIOUR: dict[str, Callable[..., Any]] = {
    "Builder.__init__": _bare,
    "Builder.create_network": _create_network,
    "Builder.create_builder_config": _create_config,
    "Builder.create_optimization_profile": lambda self: _new(self._trt, "IOptimizationProfile", _shapes={}),
    "Builder.build_serialized_network": _build,
    "IBuilderConfig.set_flag": lambda self, flag: _flag(self, flag, True),
    "IBuilderConfig.clear_flag": lambda self, flag: _flag(self, flag, False),
    "IBuilderConfig.get_flag": lambda self, flag: flag.name in self._flags,
    "IBuilderConfig.add_optimization_profile": _add_profile,
    "IBuilderConfig.create_timing_cache": _create_cache,
    "IBuilderConfig.set_timing_cache": _use_cache,
    "IBuilderConfig.get_timing_cache": lambda self: self._cache,
    "ITimingCache.combine": _combine,
    "ITimingCache.serialize": _written_cache,
    "INetworkDefinition.get_input": lambda self, index: _new(
        self._trt, "ITensor", name=self._model.graph.input[index].name
    ),
    "IOptimizationProfile.set_shape": _set_shape,
    "OnnxParser.__init__": _parser,
    "OnnxParser.parse_from_file": _parse,
    "OnnxParser.supports_model_v2": lambda self, model, path=None: _takes(self, onnx.load_from_string(model)),
    "OnnxParser.get_error": lambda self, index: self._errors[index],
    "ParserError.desc": lambda self: self._text,
    "ParserError.node_name": lambda self: self._node.name,
    "ParserError.node_operator": lambda self: self._node.op_type,
    "Runtime.__init__": _bare,
    "Runtime.deserialize_cuda_engine": _load,
    "ICudaEngine.create_execution_context": _create_context,
    "ICudaEngine.create_engine_inspector": lambda self: _new(self._trt, "EngineInspector"),
    "ICudaEngine.get_tensor_name": lambda self, index: list(self._ports)[index],
    "ICudaEngine.get_tensor_shape": lambda self, name: Dims(_shape(self, name)),
    "ICudaEngine.get_tensor_profile_shape": _range,
    "ICudaEngine.get_tensor_mode": lambda self, name: getattr(
        self._trt.TensorIOMode, "INPUT" if _is_input(self, name) else "OUTPUT"
    ),
    "ICudaEngine.get_tensor_location": lambda self, name: getattr(
        self._trt.TensorLocation, "HOST" if name in self._trt.host else "DEVICE"
    ),
    "ICudaEngine.get_tensor_dtype": lambda self, name: getattr(
        self._trt.DataType, _DTYPES[self._ports[name].type.tensor_type.elem_type][0]
    ),
    "IExecutionContext.set_input_shape": _set_input,
    "IExecutionContext.set_tensor_address": _address,
    "IExecutionContext.infer_shapes": lambda self: [],
    "IExecutionContext.get_tensor_shape": _context_shape,
    "IExecutionContext.set_output_allocator": lambda self, name, found: not self._allocators.update({name: found}),
    "IExecutionContext.set_optimization_profile_async": _use_profile,
    "IExecutionContext.execute_async_v3": _execute,
    "EngineInspector.get_engine_information": _inspect,
    "Refitter.__init__": _bare,
    "Refitter.get_missing_weights": lambda self: [],
    "Refitter.refit_cuda_engine": _refit,
    "OnnxParserRefitter.__init__": _parser,
    "OnnxParserRefitter.refit_from_file": _refit_from,
    "OnnxParserRefitter.get_error": lambda self, index: self._errors[index],
}

PROPERTIES: dict[str, dict[str, Any]] = {
    "INetworkDefinition": {"num_inputs": property(lambda self: len(self._model.graph.input))},
    "OnnxParser": {"num_errors": property(lambda self: len(self._errors))},
    "OnnxParserRefitter": {"num_errors": property(lambda self: len(self._errors))},
    "IHostMemory": {
        "nbytes": property(lambda self: len(self._content)),
        "__bytes__": lambda self: self._content,
    },
    "ICudaEngine": {
        "num_io_tensors": property(lambda self: len(self._ports)),
        "num_optimization_profiles": property(lambda self: len(self._head["profiles"])),
        "refittable": property(lambda self: "REFIT" in self._head["flags"]),
    },
}


class Host:
    """The CPU in the place of a GPU: memory is ordinary memory, and a graph is what was recorded, run again."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.waits = self.captures = 0

    @contextmanager
    def stream(self) -> Iterator[int]:
        yield 7

    def capture(self, run: Callable[[int], None]) -> Callable[[], None]:
        self.captures += 1
        return lambda: run(9)

    def wait(self) -> None:
        self.waits += 1


def weights_of(path: Path) -> int:
    """Bytes of a saved model's weights."""
    return sum(len(item.raw_data) for item in onnx.load(path).graph.initializer)
