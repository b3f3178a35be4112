"""Changes of calls that must change the images, and such that must not.

Each function gets a runner of the call, and returns the changed arguments or a function that returns latents; `None`
if it does not apply to the call.
"""

import numpy as np
import torch
from PIL import Image, ImageOps

from diffusers_ccld.utils.rgb import to_rgb

from . import values
from .models import FITTED


def expected_size(call, arguments) -> tuple[int, int]:
    """Height and width of the images that a call makes."""
    height, width, image = arguments.get("height"), arguments.get("width"), arguments.get("image")
    own = (call.sizes.default, call.sizes.default)
    if image is not None:
        first = image[0] if isinstance(image, list) else image
        if isinstance(first, Image.Image):
            own = ImageOps.exif_transpose(first).size[::-1]
        else:
            own = first.shape[-3:-1] if isinstance(first, np.ndarray) else first.shape[-2:]
        own = tuple(length - length % call.sizes.multiple for length in own)
    return height or own[0], width or own[1]


def _arguments(runner):
    return runner.call.values()


def guidance_scale(arguments) -> float:
    """The guidance scale of a call."""
    scale = arguments.get("guidance_scale")
    return 3.0 if scale is None else scale


def _has_guidance(arguments):
    """True if prompts have a weight at every step that is neither 0 nor 1."""
    scale = guidance_scale(arguments)
    watch = arguments.get("callback_on_step_end")
    is_free = watch is None or watch.action not in ("guidance", "stop")
    return "conditions" not in arguments and scale not in (0, 1) and "guidance_interval" not in arguments and is_free


def _scale_matters(arguments):
    """True if guidance changes the images: not if texts are both wanted and avoided, v(c) = g·v(c) + (1 − g)·v(c)."""
    wanted, avoided = arguments.get("prompt"), arguments.get("negative_prompt")
    if not _has_guidance(arguments) or wanted is None or avoided is None:
        return _has_guidance(arguments)
    wanted, avoided = ([text] if isinstance(text, str) else text for text in (wanted, avoided))
    has_pictures = bool({"image_prompt", "image_embeds"} & arguments.keys())
    return has_pictures or {" ".join(text.split()) for text in (*wanted, *avoided)} != {" ".join(wanted[0].split())}


def _starts_from_noise(runner):
    return runner.call.pipeline == "CCLDPipeline"


# Changes that must show


def another_seed(runner):
    """Other generators, where they make the noise at the start."""
    if "latents" in _arguments(runner) or "generator" not in _arguments(runner):
        return None
    if isinstance(_arguments(runner)["generator"], list):
        return {"generator": [values.generator(10**7 + i) for i in range(len(_arguments(runner)["generator"]))]}
    return {"generator": values.generator(10**7)}


def another_prompt(runner):
    """Another text in place of each."""
    arguments = _arguments(runner)
    if "prompt" not in arguments or not _has_guidance(arguments) or arguments.get("image_prompt_weight") == 1:
        return None
    prompt = arguments["prompt"]
    return {"prompt": "a green whale" if isinstance(prompt, str) else ["a green whale"] * len(prompt)}


def other_prompt_embeds(runner):
    """Other embeddings of texts or of images."""
    arguments = _arguments(runner)
    weight = arguments.get("image_prompt_weight")
    for name, hidden in (("prompt_embeds", 1), ("image_embeds", 0), ("negative_prompt_embeds", None)):
        if name in arguments and _has_guidance(arguments) and (weight is None or weight != hidden):
            return {name: values.embeds(tuple(arguments[name].shape), 10**6)}
    return None


def another_image_prompt(runner):
    """Another picture as image prompt."""
    arguments = _arguments(runner)
    if "image_prompt" not in arguments or not _has_guidance(arguments) or arguments.get("image_prompt_weight") == 0:
        return None
    count = len(arguments["image_prompt"]) if isinstance(arguments["image_prompt"], list) else 1
    return {"image_prompt": [values.pil("RGB", 24, 24, 10**6)] * count}


def another_negative_prompt(runner):
    """A negative prompt in place of none, or another one."""
    arguments = _arguments(runner)
    if not _has_guidance(arguments) or "negative_prompt_embeds" in arguments:
        return None
    negative = arguments.get("negative_prompt")
    return {"negative_prompt": ["fog and rain"] * len(negative) if isinstance(negative, list) else "fog and rain"}


def another_share_of_the_image_prompt(runner):
    """Another weight of the image prompt beside a prompt."""
    arguments = _arguments(runner)
    has_both = bool({"prompt", "prompt_embeds"} & arguments.keys()) and bool(
        {"image_prompt", "image_embeds"} & arguments.keys()
    )
    if not has_both or not _has_guidance(arguments):
        return None
    return {"image_prompt_weight": 0.35}


def another_guidance_scale(runner):
    """More guidance."""
    arguments = _arguments(runner)
    if not _scale_matters(arguments):
        return None
    return {"guidance_scale": guidance_scale(arguments) + 1.5}


def another_weight(runner):
    """Another weight of a condition."""
    arguments = _arguments(runner)
    if "guidance_interval" in arguments or "conditions" not in arguments:
        return None
    rows = arguments["conditions"]
    is_batch = bool(rows) and all(isinstance(row, list) for row in rows)
    rows = rows if is_batch else [rows]
    if not rows[0]:
        return {"conditions": [[("a green whale", 1.3)], *rows[1:]]}
    (condition, weight), *others = rows[0]
    return {"conditions": [[(condition, weight + 0.7), *others], *rows[1:]]}


def _has_difference(arguments):
    """True if the guided prediction is not that of the wanted conditions alone, at every step."""
    if "conditions" not in arguments:
        # Between 0 and 1 all weights are positive, and their sum is at most 1.
        return _scale_matters(arguments) and not 0 <= guidance_scale(arguments) <= 1
    rows = arguments["conditions"]
    rows = rows if rows and all(isinstance(row, list) for row in rows) else [rows]
    weights = [[weight for _, weight in row] for row in rows]
    return "guidance_interval" not in arguments and any(min(row, default=0) < 0 or sum(row) > 1 for row in weights)


def another_parallel_guidance(runner):
    """Another share of the guidance that is parallel to the prediction."""
    if runner.call.model == "distilled" or not _has_difference(_arguments(runner)):
        return None
    return {"parallel_guidance": 0.25}


def no_guidance_anywhere(runner):
    """An interval that no step lies in."""
    arguments = _arguments(runner)
    if not _scale_matters(arguments) or guidance_scale(arguments) == 0.5:
        return None
    return {"guidance_interval": (0.0, 0.0)}


def another_variation(runner):
    """Another spread of texts, which draws noise of its own."""
    arguments = _arguments(runner)
    if runner.call.model not in FITTED or "prompt" not in arguments or not _has_guidance(arguments):
        return None
    if arguments.get("image_prompt_weight") == 1:
        return None
    return {"variation": 0.8}


def more_steps(runner):
    """Three steps more."""
    arguments = _arguments(runner)
    watch = arguments.get("callback_on_step_end")
    if watch is not None and watch.action == "stop":
        return None
    return {"num_inference_steps": arguments["num_inference_steps"] + 3}


def another_share_of_noise(runner):
    """Noise that DDIM adds, in all steps but the last."""
    arguments = _arguments(runner)
    watch = arguments.get("callback_on_step_end")
    if not runner.call.takes_eta or arguments.get("eta") or runner.num_timesteps < 2 or watch is not None:
        return None
    return {"eta": 0.6}


def other_latents(runner):
    """Other noise to start from."""
    if "latents" not in _arguments(runner):
        return None
    return {"latents": values.normal(tuple(_arguments(runner)["latents"].shape), 10**6)}


def another_image(runner):
    """Another picture to start from."""
    arguments = _arguments(runner)
    if _starts_from_noise(runner) or arguments.get("strength", 1.0) > 0.9:
        return None
    image = arguments["image"]
    first = image[0] if isinstance(image, list) else image
    if isinstance(first, Image.Image):
        other = to_rgb(first).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    else:
        other = first[..., ::-1].copy() if isinstance(first, np.ndarray) else first.flip(-1)
    return {"image": [other, *image[1:]] if isinstance(image, list) else other}


def full_strength(runner):
    """From pure noise instead of from a time in the middle."""
    arguments = _arguments(runner)
    if _starts_from_noise(runner) or arguments.get("strength", 1) > 0.6 or arguments["num_inference_steps"] < 4:
        return None
    return {"strength": 1.0}


def everything_painted(runner):
    """A mask that is white everywhere."""
    arguments = _arguments(runner)
    if "mask_image" not in arguments:
        return None
    return {"mask_image": Image.new("L", (16, 16), 255)}


def another_size(runner):
    """A greater height."""
    if "latents" in _arguments(runner):
        return None
    multiple = runner.call.sizes.multiple
    return {"height": expected_size(runner.call, _arguments(runner))[0] + multiple, "width": 3 * multiple}


def latents_of_a_callback(runner):
    """A callback that replaces the latents."""
    if "callback_on_step_end" in _arguments(runner):
        return None
    return {"callback_on_step_end": values.Watch("replace"), "callback_on_step_end_tensor_inputs": ["latents"]}


def guidance_of_a_callback(runner):
    """A callback that ends the guidance after the first step."""
    arguments = _arguments(runner)
    if not _scale_matters(arguments) or "callback_on_step_end" in arguments or runner.num_timesteps < 3:
        return None
    return {"callback_on_step_end": values.Watch("guidance")}


EFFECTIVE = (
    another_seed,
    another_prompt,
    other_prompt_embeds,
    another_image_prompt,
    another_negative_prompt,
    another_share_of_the_image_prompt,
    another_guidance_scale,
    another_weight,
    another_parallel_guidance,
    no_guidance_anywhere,
    another_variation,
    more_steps,
    another_share_of_noise,
    other_latents,
    another_image,
    full_strength,
    everything_painted,
    another_size,
    latents_of_a_callback,
    guidance_of_a_callback,
)


# Changes that must not show


# Largest difference of latents that are the same. In float32, kernels round by the addresses of their arguments, which
# guidance and a first step from pure noise amplify.
UNCHANGED = 1e-4


def is_unchanged(after: torch.Tensor, before: torch.Tensor) -> bool:
    """True if latents are the same but for roundings."""
    return torch.allclose(after, before, rtol=0, atol=UNCHANGED)


def the_defaults(runner):
    """Defaults by their values."""
    arguments = _arguments(runner)
    defaults = {"num_images_per_prompt": 1, "eta": 0.0, "guidance_interval": (0.0, 1.0), "image_prompt_weight": 0.5}
    defaults |= {"parallel_guidance": 1.0}
    return {name: value for name, value in defaults.items() if name not in arguments}


def embedded_before(runner):
    """Embeddings of the prompts in place of texts and pictures: the call without variation, which only texts have."""
    arguments, embedded = _arguments(runner), {}
    if "prompt" in arguments:
        embedded["prompt_embeds"] = runner.pipe.encode_prompt(arguments["prompt"])[0]
    if "negative_prompt" in arguments:
        embedded["negative_prompt_embeds"] = runner.pipe.encode_prompt(None, arguments["negative_prompt"])[1]
    if "image_prompt" in arguments:
        embedded["image_embeds"] = runner.pipe.encode_image(arguments["image_prompt"])
    if not embedded:
        return None
    embedded |= dict.fromkeys(("prompt", "negative_prompt", "image_prompt"))
    if "prompt" not in arguments or not runner.pipe.variation_or_default(arguments.get("variation")):
        return embedded

    def latents():
        is_same = is_unchanged(runner.latents(**embedded), runner.latents(variation=0))
        return runner.latents() if is_same else None

    return latents


def its_own_size(runner):
    """The size that the images have anyway."""
    return dict(zip(("height", "width"), expected_size(runner.call, _arguments(runner))))


def upright_rgb(runner):
    """Pictures as upright RGB images."""
    arguments = _arguments(runner)
    image = arguments.get("image")
    first = image[0] if isinstance(image, list) else image
    if not isinstance(first, Image.Image):
        return None
    return {"image": [to_rgb(picture) for picture in (image if isinstance(image, list) else [image])]}


def as_numbers(runner):
    """Pixels of uint8 as floating-point numbers."""
    image = _arguments(runner).get("image")
    if getattr(image, "dtype", None) not in (np.uint8, torch.uint8):
        return None
    return {"image": image.astype(np.float32) / np.float32(255) if isinstance(image, np.ndarray) else image / 255}


def prompts_repeated(runner):
    """Lists with each prompt repeated in place of `num_images_per_prompt`."""
    arguments = _arguments(runner)
    names = ("prompt", "image_prompt", "negative_prompt")
    if (
        runner.call.dtype != "float64"
        or arguments.get("num_images_per_prompt", 1) == 1
        or not {"prompt", "image_prompt"} & arguments.keys()
    ):
        return None
    if runner.call.pipeline != "CCLDPipeline" or any(name.endswith("_embeds") for name in arguments):
        return None
    repeated = {"num_images_per_prompt": 1}
    for name in names:
        if name in arguments:
            items = arguments[name] if isinstance(arguments[name], list) else [arguments[name]]
            repeated[name] = [item for item in items for _ in range(2)]
    lengths = {len(repeated[name]) for name in names if name in repeated}
    return repeated if len(lengths) == 1 else None


def decoded(runner):
    """Pixels, which are those of the latents in every form."""

    def latents():
        arrays = runner.images(output_type="np", return_dict=True)
        pictures = np.stack([np.asarray(picture) for picture in runner.images(output_type="pil")])
        tensors = runner.images(output_type="pt").float().permute(0, 2, 3, 1).numpy()
        is_same = np.array_equal((arrays * 255).round().astype(np.uint8), pictures) and np.array_equal(tensors, arrays)
        return runner.latents() if is_same else None

    return latents


NEUTRAL = (the_defaults, embedded_before, its_own_size, upright_rgb, as_numbers, prompts_repeated, decoded)
