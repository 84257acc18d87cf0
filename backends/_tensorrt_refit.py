"""New weights for an engine that was built to be refitted."""

from __future__ import annotations

from pathlib import Path

from tersor.backends._tensorrt_api import ICudaEngine, ILogger, OnnxParserRefitter, Refitter, Trt, said
from tersor.errors import BackendError


def refit(trt: Trt, kept: ILogger, engine: ICudaEngine, path: Path) -> None:
    """Take the weights of an ONNX file of the same graph; raises BackendError where they do not fit."""
    if not engine.refittable:
        raise BackendError("the engine cannot be refitted", "build it with tensorrt{refit=true}")
    refitter: Refitter = trt.Refitter(engine, kept)
    parser: OnnxParserRefitter = trt.OnnxParserRefitter(refitter, kept)
    if not parser.refit_from_file(str(path)):
        reasons = [" ".join(parser.get_error(index).desc().split()) for index in range(parser.num_errors)]
        raise BackendError(
            f"the weights do not fit the engine: {'; '.join(reasons) or said(kept)}", "refit with the same graph"
        )
    absent = refitter.get_missing_weights()
    if absent:
        raise BackendError(f"weights are missing: {', '.join(absent[:5])}", "give the whole model")
    if not refitter.refit_cuda_engine():
        raise BackendError(f"TensorRT cannot exchange the weights: {said(kept)}")
