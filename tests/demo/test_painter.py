"""The painter: pictures, sizes and cancellation."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_ccld import CCLDImg2ImgPipeline, CCLDPipeline
from diffusers_ccld.demo.painter import PaintingCancelledError
from diffusers_ccld.demo.requests import parse_request
from support.demo_calls import LIMITS, png


def paint(painter, task="paint", **values):
    request = parse_request(task, {"prompt": "a rose", "seed": 3, "num_inference_steps": 2, **values}, LIMITS)
    shares = []
    pictures = painter.paint(request, lambda progress: shares.append(progress.share))
    assert shares == sorted(shares) and shares[-1] == 1
    return pictures


def test_pictures_are_those_of_the_pipeline(painter, trainable_folder):
    pipe = CCLDPipeline.from_pretrained(trainable_folder)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    expected = pipe("a rose", num_images_per_prompt=2, num_inference_steps=2, generator=generators).images
    pictures = paint(painter, num_images=2)
    assert [np.array_equal(a, b) for a, b in zip(pictures, expected)] == [True, True]
    assert [json.loads(picture.info["ccld"])["seed"] for picture in pictures] == [3, 4]
    assert json.loads(pictures[0].info["ccld"])["variation"] == 0
    with pytest.raises(ValueError, match="variation"):  # the model was not fitted
        paint(painter, variation=0.5)
    # Requests do not share a sampler.
    assert not np.array_equal(paint(painter, algorithm="plms2")[0], pictures[0])
    assert np.array_equal(paint(painter, num_images=2)[0], pictures[0])


def test_every_task_matches_its_pipeline(painter, trainable_folder):
    picture = Image.open(io.BytesIO(png((64, 64))))
    pipe = CCLDImg2ImgPipeline.from_pretrained(trainable_folder)
    size = (32, 32)
    options = {"num_inference_steps": 4, "strength": 0.9}
    picture = picture.resize(size)
    expected = pipe.edit(picture, "a rose", **options).images[0]
    assert np.array_equal(paint(painter, "edit", picture=png((64, 64)), **options)[0], expected)
    expected = pipe("a rose", picture, **options, generator=torch.Generator().manual_seed(3)).images[0]
    assert np.array_equal(paint(painter, "image_to_image", picture=png((64, 64)), **options)[0], expected)

    layer = Image.new("RGBA", size)
    layer.paste("white", (0, 0, size[0] // 2, size[1]))
    file = io.BytesIO()
    layer.save(file, "PNG")
    values = {"picture": png(size, "white"), "mask": [file.getvalue()], "num_inference_steps": 4}
    pixels = np.asarray(paint(painter, "inpaint", **values)[0], float)
    kept = np.asarray(paint(painter, "inpaint", **values, algorithm="ddim", seed=9)[0], float)
    half = size[0] // 2
    edge = half + 2  # the mask's edge is blended; beyond it, the picture is as it was given
    assert (pixels[:, edge:] == 255).all() and (kept[:, edge:] == 255).all()
    assert not np.array_equal(pixels[:, :half], kept[:, :half])


@pytest.mark.parametrize("size, expected", [((300, 100), (48, 16)), ((100, 900), (16, 64)), ((990, 1000), (32, 32))])
def test_sizes_follow_the_picture_and_are_bounded(painter, size, expected):
    assert paint(painter, "image_to_image", picture=png(size))[0].size == expected


@pytest.mark.parametrize("task", ["paint", "image_to_image", "edit", "inpaint"])
def test_an_exception_in_on_step_ends_sampling(painter, task, evaluations):
    mask = [png(colour=(255, 255, 255, 255), mode="RGBA")]
    values = {"prompt": "a", "num_inference_steps": 20, "algorithm": "ddim", "picture": png(), "mask": mask}

    def on_step(progress):
        if len(evaluations) == 3:
            raise PaintingCancelledError

    with pytest.raises(PaintingCancelledError):
        painter.paint(parse_request(task, values, LIMITS), on_step)
    assert len(evaluations) == 3
    assert paint(painter, num_inference_steps=1)  # the next request is not affected
