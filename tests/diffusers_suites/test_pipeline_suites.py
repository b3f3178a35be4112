"""diffusers' pipeline suites on our pipelines."""

import unittest

import torch
from models import pipeline_components
from tests.pipelines import pipeline_params
from tests.pipelines import test_pipelines_common as suites

from diffusers_ccld import CCLDPipeline


class CCLDPipelineSuites(
    suites.PipelineTesterMixin,
    suites.PipelineLatentTesterMixin,
    suites.PipelineKarrasSchedulerTesterMixin,
    suites.PipelineFromPipeTesterMixin,
    suites.SDFunctionTesterMixin,
    unittest.TestCase,
):
    pipeline_class = CCLDPipeline
    params = pipeline_params.TEXT_TO_IMAGE_PARAMS - {"cross_attention_kwargs"}
    batch_params = pipeline_params.TEXT_TO_IMAGE_BATCH_PARAMS
    image_params = frozenset()
    image_latents_params = pipeline_params.TEXT_TO_IMAGE_IMAGE_PARAMS
    callback_cfg_params = frozenset()
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
