"""Arguments that make a call illegal: each must be refused in one sentence before any work."""

import numpy as np
import torch
from PIL import Image

from . import values


def _always(call, arguments):
    return True


def _from_images(call, arguments):
    return call.pipeline != "CCLDPipeline"


def _from_noise(call, arguments):
    return not _from_images(call, arguments)


def _sized_by_images(call, arguments):
    return _from_images(call, arguments) and not {"height", "width"} <= arguments.keys()


def _inpaints(call, arguments):
    return call.pipeline == "CCLDInpaintPipeline"


def _has_prompts(call, arguments):
    return "conditions" not in arguments


def _has_conditions(call, arguments):
    return "conditions" in arguments


def _takes_no_eta(call, arguments):
    return not call.takes_eta


NAN = float("nan")
EVERYWHERE = {
    "height": (-8, 0, 9, 8.0, "8", True, NAN),
    "width": (-8, 0, 9, 8.0, "8", True),
    "num_inference_steps": (0, -1, 2.5, "5", True, NAN),
    "num_images_per_prompt": (0, -1, 1.5, "2", True, None),
    "eta": (2, -1, NAN, "0.5", None),
    "generator": (7, "seed", [], [None], [values.generator(0)] * 11),
    "output_type": ("PIL", None, 3, "latents", ["pil"]),
    "callback_on_step_end": (5, "print"),
    "callback_on_step_end_tensor_inputs": (["noise"], "latents", None, 3),
    "variation": (2, -0.1, NAN, "0.5", True),
    "image_prompt_weight": (2, -0.1, NAN, "0.5", None),
    "parallel_guidance": (-0.5, 2, NAN, "0.5", None, True),
    "guidance_interval": ((0.8, 0.3), (0, 2), 0.5, (0.1,), (NAN, 1), "ab", (None, None)),
}
OF_PROMPTS = {
    "guidance_scale": (NAN, float("inf"), "3", True, [3.0]),
    "prompt": (5, [], [None], b"a fox", ["a fox", 3], {"a": "fox"}),
    "negative_prompt": (5, [], [None]),
    "image_prompt": ("fox.png", [], 3, ["fox.png"], np.zeros((8, 8, 3))),
    "conditions": ([("a fox", 1.0)],),
    "prompt_embeds": (
        torch.full((1, 32), NAN),
        torch.zeros(1, 7),
        torch.zeros(0, 32),
        [[0.0] * 32],
        np.zeros((1, 32)),
    ),
    "negative_prompt_embeds": (torch.full((1, 1, 32), float("inf")), torch.zeros(1, 7), torch.zeros(32)),
}
OF_CONDITIONS = {
    "conditions": (
        "a fox",
        ("a fox", 2.0),
        ["a fox"],
        [("a fox", NAN)],
        [("a fox", "2")],
        [("a fox",)],
        [(3, 1.0)],
        [("a fox", 1.0), None],
        [[("a fox", 1.0)], "b"],
        [(torch.zeros(7), 1.0)],
        [(torch.full((32,), NAN), 1.0)],
        {"a fox": 1.0},
        5,
    ),
}
OF_NOISE = {"latents": (torch.zeros(1, 4, 3, 3), "noise", np.zeros((1, 4, 4, 4)), torch.zeros(4, 4, 4))}
OF_IMAGES = {
    "strength": (0, -0.5, 1.5, NAN, "0.5", None, True, 1e-9),
    "image": (
        None,
        "fox.png",
        [],
        [None],
        5,
        np.zeros((16, 16)),
        np.zeros((16, 16, 4)),
        np.zeros((0, 16, 3)),
        np.full((16, 16, 3), 2.0),
        np.full((16, 16, 3), NAN),
        torch.zeros(16, 16, 3),
        torch.zeros(3, 16, 16, dtype=torch.int64),
        Image.new("F", (16, 16)),
        Image.new("RGB", (0, 0)),
        [Image.new("RGB", (16, 16)), np.zeros((16, 16, 3))],
    ),
}
# Too small to be cut to a multiple of the networks' sizes. With both sizes given, they are enlarged.
OF_OWN_SIZE = {"image": (torch.zeros(3, 2, 2), Image.new("RGB", (2, 2)))}
OF_MASKS = {
    "mask_image": (
        None,
        "mask.png",
        [],
        [None],
        5,
        Image.new("F", (16, 16)),
        Image.new("L", (0, 0)),
        np.zeros((16, 16, 3)),
        np.zeros((0, 16)),
        np.full((16, 16), 2.0),
        torch.zeros(16),
        torch.zeros(13, 16, 16),
        torch.zeros(16, 16, dtype=torch.int64),
    ),
}


def _cases():
    for applies, table in (
        (_always, EVERYWHERE),
        (_has_prompts, OF_PROMPTS),
        (_has_conditions, OF_CONDITIONS),
        (_from_noise, OF_NOISE),
        (_from_images, OF_IMAGES),
        (_sized_by_images, OF_OWN_SIZE),
        (_inpaints, OF_MASKS),
    ):
        for name, wrong in table.items():
            for value in wrong:
                yield name, (lambda call, arguments, name=name, value=value: {name: value}), applies
    yield "eta", (lambda call, arguments: {"eta": 0.5}), _takes_no_eta
    nothing = ("prompt", "image_prompt", "prompt_embeds", "image_embeds", "conditions")
    yield "prompt", (lambda call, arguments: dict.fromkeys(nothing)), _always
    both = {"prompt": "a fox", "prompt_embeds": torch.zeros(1, 32)}
    yield "prompt", (lambda call, arguments: both), _has_prompts


# Names, functions that make the arguments, and the calls that each applies to.
ILLEGAL = tuple(_cases())
