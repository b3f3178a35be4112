"""Pipelines as ONNX files: the export, which needs torch, and a runtime, which does not."""
