"""Limits, pictures and calls for tests of the demo."""

import io
import json

from PIL import Image

from diffusers_ccld.demo.requests import Limits
from support.patience import get, post, stream

LIMITS = Limits(prompt_length=100, num_inference_steps=60, num_images=2, image_bytes=2**20, image_pixels=10**6)

META = {"_type": "gradio.FileData"}


def png(size=(80, 60), colour="red", mode="RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, "PNG")
    return file.getvalue()


def inputs(prompt="a rose", steps=2, images=1, seed=3, image_prompt=None, variation=None, **changes) -> list:
    """The inputs of the function "paint", in order; `variation` is one of them for a fitted model."""
    values = {
        "prompt": prompt,
        "negative_prompt": "",
        "num_inference_steps": steps,
        "guidance_scale": 3,
        "algorithm": "plms",
        "num_images": images,
        "seed": seed,
        "random_seed": False,
        "variation": variation or 0,
        "image_prompt": image_prompt,
        "image_prompt_weight": 0.5,
        "guidance_from": 0,
        "guidance_to": 1,
    }
    return list((values | changes).values())


def call(server, data, function="paint"):
    """Calls a function of the page's API. Returns the last event and its data."""
    body, headers = json.dumps({"data": data}), {"content-type": "application/json"}
    answer = post(f"{server}/gradio_api/call/{function}", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    with stream("GET", f"{server}/gradio_api/call/{function}/{answer.json()['event_id']}") as answered:
        lines = list(answered.iter_lines())
    event, data = lines[-3:-1] if not lines[-1] else lines[-2:]
    return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def fetch(server, file) -> Image.Image:
    picture = Image.open(io.BytesIO(get(f"{server}/gradio_api/file={file['path']}").content))
    picture.load()
    return picture
