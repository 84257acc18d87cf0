"""What the parser of an installed TensorRT says of a model: the last word on what is rejected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tersor.backends._tensorrt_api import Builder, ILogger, INetworkDefinition, OnnxParser, ParserError, Trt
from tersor.backends._tensorrt_build import strongly_typed
from tersor.backends._tensorrt_findings import Noted
from tersor.backends._tensorrt_operators import ELSEWHERE, REMEDIES


def refused(trt: Trt, kept: ILogger, path: Path) -> Iterator[Noted]:
    """The nodes of an ONNX file that the installed parser does not take."""
    builder: Builder = trt.Builder(kept)
    network: INetworkDefinition = builder.create_network(strongly_typed(trt))
    parser: OnnxParser = trt.OnnxParser(network, kept)
    if parser.supports_model_v2(path.read_bytes(), str(path)):
        return
    for index in range(parser.num_errors):
        error: ParserError = parser.get_error(index)
        operator = str(error.node_operator())
        problem = f"the installed TensorRT refuses {operator or 'the model'}: {' '.join(error.desc().split())[:200]}"
        yield str(error.node_name()), problem, REMEDIES.get(operator, ELSEWHERE), True
