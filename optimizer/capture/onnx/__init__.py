"""Importing ONNX files: their nodes run as torch functions under torch.export."""
