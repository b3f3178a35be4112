"""Inference: loading a pipeline, devices and speed, sampling prompts from seeds, interpolation."""
