"""Capture: any source a user has, as one `Program`."""

from tersor.capture.sources import ZOO_PREFIXES, is_onnx, load, load_onnx

__all__ = ["ZOO_PREFIXES", "is_onnx", "load", "load_onnx"]
