"""Pipelines as ONNX files: the export, and a runtime of numpy and onnxruntime. Only the export imports torch."""
