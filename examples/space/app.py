"""A Space on the Hub: the demo of diffusers-ccld with the bundled model."""

from diffusers_ccld import CCLDPipeline, default_model
from diffusers_ccld.demo.page import build, launch
from diffusers_ccld.demo.painter import Painter
from diffusers_ccld.demo.requests import Limits
from diffusers_ccld.inference.devices import usable_device

limits = Limits(num_inference_steps=100)
demo = build(Painter(CCLDPipeline.from_pretrained(default_model()).to(usable_device(None))), limits)

if __name__ == "__main__":
    launch(demo, limits, host="0.0.0.0", port=7860, queue_size=20)
