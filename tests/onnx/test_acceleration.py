"""A loaded pipeline whose networks onnxruntime runs."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_ccld import CCLDImg2ImgPipeline, CCLDPipeline, default_model
from diffusers_ccld.onnx.acceleration import run_by_onnxruntime
from diffusers_ccld.onnx.manifest import ExportError


def call(pipe, task, **options):
    pipe = task.from_pipe(pipe)
    pipe.set_progress_bar_config(disable=True)
    return np.asarray(
        pipe("a rose", num_inference_steps=3, generator=torch.manual_seed(0), **options).images[0], dtype=int
    )


def test_all_tasks_paint_the_same_pictures():
    pipe, fast = (CCLDPipeline.from_pretrained(default_model()) for _ in range(2))
    run_by_onnxruntime(fast, default_model())
    assert fast.unet.forward.__module__.endswith("acceleration")
    picture = Image.effect_noise((128, 128), 80).convert("RGB")
    for task, options in ((CCLDPipeline, {}), (CCLDImg2ImgPipeline, {"image": picture})):
        found, expected = (call(each, task, **options) for each in (fast, pipe))
        assert np.abs(found - expected).max() <= 1


def test_files_of_another_pipeline_are_refused(pipe):
    with pytest.raises(ExportError, match="another pipeline"):
        run_by_onnxruntime(pipe, default_model())
