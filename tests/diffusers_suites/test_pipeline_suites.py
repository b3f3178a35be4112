"""diffusers' pipeline suites on our pipelines. docs/diffusers-suites.md has the reasons for the skipped tests."""

import unittest
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from models import pipeline_components
from PIL import Image

from diffusers_ccld import CCLDImg2ImgPipeline, CCLDInpaintPipeline, CCLDPipeline
from tests.pipelines import pipeline_params
from tests.pipelines import test_pipelines_common as suites

PICTURE = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8))
LEFT_HALF = Image.fromarray(np.repeat([[255] * 32 + [0] * 32], 64, axis=0).astype(np.uint8))


class Suites(suites.PipelineTesterMixin, suites.PipelineKarrasSchedulerTesterMixin, suites.SDFunctionTesterMixin):
    callback_cfg_params = frozenset()
    image_params = frozenset()
    image_latents_params = frozenset()
    test_layerwise_casting = True
    test_group_offloading = True

    def get_dummy_components(self):
        return pipeline_components()

    def get_dummy_inputs(self, device, seed=0):
        return {
            "prompt": "a red fox",
            "generator": torch.Generator("cpu").manual_seed(seed),
            "num_inference_steps": 2,
            "guidance_scale": 3.0,
            "output_type": "np",
        }

    def test_karras_schedulers_shape(self):
        """KDPM2 takes 11 steps, as the times of 5 are NaN with KDPM2-ancestral; EDM solves another equation."""
        pipe = self.pipeline_class(**self.get_dummy_components())
        pipe.scheduler = EDMEulerScheduler.from_config(pipe.scheduler.config)
        with pytest.raises(ValueError, match="EDMEulerScheduler has timesteps from"):
            pipe(**self.get_dummy_inputs("cpu"))
        others = [scheduler for scheduler in KarrasDiffusionSchedulers if scheduler.name != "EDMEulerScheduler"]
        with mock.patch.object(suites, "KarrasDiffusionSchedulers", others):
            super().test_karras_schedulers_shape(num_inference_steps_for_strength_for_iterations=11)

    def test_freeu(self):
        """FreeU is refused rather than ignored."""
        pipe = self.pipeline_class(**self.get_dummy_components())
        with pytest.raises(ValueError, match="FreeU"):
            pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)


class FromBase(suites.PipelineFromPipeTesterMixin):
    """The suite's own originals are Stable Diffusion pipelines from the Hub, which cannot take our U-Net."""

    original_pipeline_class = CCLDPipeline

    def test_from_pipe_consistent_config(self):
        self.skipTest("compares with a Stable Diffusion pipeline from the Hub")


class TextToImage(Suites, suites.PipelineLatentTesterMixin, unittest.TestCase):
    pipeline_class = CCLDPipeline
    params = pipeline_params.TEXT_TO_IMAGE_PARAMS - {"cross_attention_kwargs"}
    batch_params = pipeline_params.TEXT_TO_IMAGE_BATCH_PARAMS
    image_latents_params = pipeline_params.TEXT_TO_IMAGE_IMAGE_PARAMS


class ImageToImage(Suites, FromBase, suites.PipelineLatentTesterMixin, unittest.TestCase):
    pipeline_class = CCLDImg2ImgPipeline
    params = pipeline_params.TEXT_GUIDED_IMAGE_VARIATION_PARAMS - {"height", "width"}
    batch_params = pipeline_params.TEXT_GUIDED_IMAGE_VARIATION_BATCH_PARAMS
    required_optional_params = suites.PipelineTesterMixin.required_optional_params - {"latents"}
    image_params = pipeline_params.IMAGE_TO_IMAGE_IMAGE_PARAMS

    def get_dummy_inputs(self, device, seed=0):
        pixels = torch.from_numpy(np.asarray(PICTURE)).permute(2, 0, 1)[None].float() / 255
        return {**super().get_dummy_inputs(device, seed), "image": pixels.to(device), "strength": 0.9}


class Inpainting(Suites, FromBase, unittest.TestCase):
    pipeline_class = CCLDInpaintPipeline
    params = pipeline_params.TEXT_GUIDED_IMAGE_INPAINTING_PARAMS - {"height", "width"}
    batch_params = pipeline_params.TEXT_GUIDED_IMAGE_INPAINTING_BATCH_PARAMS
    required_optional_params = suites.PipelineTesterMixin.required_optional_params - {"latents"}

    def get_dummy_inputs(self, device, seed=0):
        return {**super().get_dummy_inputs(device, seed), "image": PICTURE, "mask_image": LEFT_HALF}


del Suites, FromBase
