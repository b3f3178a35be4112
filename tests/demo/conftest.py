"""A painter of a small model, and the times of its evaluations."""

import time

import pytest

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.demo.painter import Painter


@pytest.fixture(scope="module")
def painter(trainable_folder):
    return Painter(CCLDPipeline.from_pretrained(trainable_folder))


@pytest.fixture
def evaluations(painter):
    """Times of the network's evaluations, each slowed down by a twentieth of a second."""
    counted = []

    def count(*_):
        counted.append(time.monotonic())
        time.sleep(0.05)

    hook = painter._components["unet"].register_forward_pre_hook(count)
    yield counted
    hook.remove()
