"""What must hold for every legal call."""

import itertools
import random
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from . import warnings_of_ours
from .changes import EFFECTIVE, NEUTRAL, expected_size, is_unchanged
from .drawing import RandomCall
from .illegal import ILLEGAL
from .models import make_pipeline
from .snapshots import changes, copied, same, state

# What a legal call may be refused for: it shows only when the scheduler has set its timesteps.
REFUSALS = (
    r"strength=\S+ leaves none of the",
    r"PNDMScheduler cannot begin at strength",
    r"PNDMScheduler cannot take [123] steps",
    r"KDPM2AncestralDiscreteScheduler cannot take [2-9] steps",
    r"DDIMScheduler has timesteps from 0 to 0",
)

BATCHED = ("prompt", "image_prompt", "negative_prompt", "prompt_embeds", "image_embeds", "negative_prompt_embeds")
# Largest difference between an image alone and in a batch, relative to the deviation of the latents. Networks round
# otherwise for another number of images; in double precision this vanishes before it is amplified.
ALONE = {"float64": 1e-3, "float32": 0.05}


@dataclass
class Report:
    """What the checks of a call found.

    Attributes:
        call: The call.
        complaints: What did not hold.
        checks: Names of the checks that were made.
        refused: The documented refusal that the call met.
    """

    call: RandomCall
    complaints: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    refused: str = ""

    def demand(self, holds: bool, complaint: str) -> None:
        """Notes a complaint unless it holds."""
        if not holds:
            self.complaints.append(complaint)

    def code(self) -> str:
        """Code that repeats the checks, run with tests/ on PYTHONPATH."""
        return f"from support.random_calls.checks import RandomCall, check\n\nprint(check({self.call!r}).complaints)\n"


class Runner:
    """Runs variants of one call on one pipeline.

    Attributes:
        num_timesteps: Number of network evaluations of the call itself, once it was checked.
    """

    def __init__(self, call: RandomCall):
        self.call = call
        self.num_timesteps = 0
        self.pipe = make_pipeline(call.pipeline, call.model, call.dtype, call.scheduler, call.options)

    def images(self, call: RandomCall | None = None, **arguments: Any) -> Any:
        """The images of a call, with arguments given as values."""
        call = call or self.call
        torch.manual_seed(call.seed)
        result = self.pipe(**{**call.values(), **arguments})
        return result[0] if isinstance(result, tuple) else result.images

    def latents(self, call: RandomCall | None = None, **arguments: Any) -> torch.Tensor:
        """The latents of a call."""
        return self.images(call, output_type="latent", **arguments)


def check(call: RandomCall) -> Report:
    """Checks one call in all respects that its seed chooses."""
    report = Report(call)
    try:
        runner = Runner(call)
        before = state(runner.pipe)
        images = _first_run(runner, report)
        if images is not None:
            _check_again(runner, images, report)
            latents = runner.latents()
            report.demand(bool(torch.isfinite(latents).all()), "the latents are not finite")
            _check_alone(runner, latents, report)
            _check_changes(runner, latents, report)
        _check_illegal(runner, report)
        changed = changes(before, state(runner.pipe))
        report.demand(not changed, f"changed: {changed}")
    except Exception as error:
        report.complaints.append(f"{type(error).__name__}: {error}")
    return report


def _first_run(runner, report):
    call, arguments = report.call, report.call.values()
    kept = copied(arguments)
    torch.manual_seed(call.seed)
    drawn = torch.get_rng_state()
    try:
        with warnings_of_ours() as warned:
            result = runner.pipe(**arguments)
        runner.num_timesteps = runner.pipe.num_timesteps
    except ValueError as error:
        if not any(re.match(pattern, str(error)) for pattern in REFUSALS):
            raise
        report.refused = str(error)
        return None
    report.demand(same(kept, arguments), "the call changed its arguments")
    if "generator" in arguments:
        report.demand(torch.equal(torch.get_rng_state(), drawn), "PyTorch's own generator was used")
    is_tuple = arguments.get("return_dict") is False
    report.demand(isinstance(result, tuple) == is_tuple, f"a {type(result).__name__} was returned")
    images = result[0] if is_tuple else result.images
    # Averages of noise predictions over a few large steps err without bound; the pipelines then warn.
    is_bounded = not any("steps are too large" in text for text in warned)
    _check_output(images, call, arguments, is_bounded, report)
    watch = arguments.get("callback_on_step_end")
    if watch is not None:
        most = watch.at + 1 if watch.action == "stop" else runner.pipe.num_timesteps
        wanted = list(range(min(most, runner.pipe.num_timesteps)))
        report.demand(watch.indices == wanted, f"the callback saw the steps {watch.indices}, not {wanted}")
        report.demand(
            runner.pipe.interrupt == (watch.action == "stop" and len(wanted) > watch.at), "interrupt is wrong"
        )
        if images is not None and arguments.get("output_type") == "latent" and watch.action != "replace":
            report.demand(torch.equal(watch.latents[-1], images), "the callback's last latents are not the result's")
    return images


def _check_output(images, call, arguments, is_bounded, report):
    count, (height, width) = expected_count(arguments), expected_size(call, arguments)
    kind, sizes = arguments.get("output_type", "pil"), call.sizes
    report.demand(len(images) == count, f"{len(images)} images, not {count}")
    if kind == "pil":
        report.demand({(image.mode, image.size) for image in images} == {("RGB", (width, height))}, f"{images}")
        return
    shape = {
        "np": (count, height, width, 3),
        "pt": (count, 3, height, width),
        "latent": (count, sizes.channels, height // sizes.factor, width // sizes.factor),
    }[kind]
    report.demand(tuple(images.shape) == shape, f"shape {tuple(images.shape)}, not {shape}")
    values = torch.as_tensor(images)
    report.demand(bool(torch.isfinite(values).all()), "the result is not finite")
    report.demand(not values.requires_grad, "the result requires gradients")
    if kind != "latent":
        report.demand(values.min() >= 0 and values.max() <= 1, f"pixels from {values.min()} to {values.max()}")
    elif is_bounded:
        report.demand(values.abs().max() < 1e3, f"latents up to {values.abs().max()}")


def expected_count(arguments: dict[str, Any]) -> int:
    """Number of images that a call makes."""
    lengths = [_length(arguments[name]) for name in (*BATCHED, "image") if name in arguments]
    conditions = arguments.get("conditions")
    if conditions is not None:
        lengths.append(len(conditions) if _is_batch(conditions) else 1)
    return max(lengths) * arguments.get("num_images_per_prompt", 1)


def _length(value):
    if isinstance(value, list):
        return sum(_length(item) if getattr(item, "ndim", 0) == 4 else 1 for item in value)
    return len(value) if isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim != 3 else _length_of_three(value)


def _length_of_three(value):
    """Embeddings (N, 1, D) are a batch; pictures (3, H, W) and (H, W, 3) are one."""
    is_embedding = isinstance(value, torch.Tensor) and value.ndim == 3 and value.shape[1] == 1
    return len(value) if is_embedding else 1


def _is_batch(conditions):
    return bool(conditions) and all(isinstance(row, list) for row in conditions)


def _check_again(runner, images, report):
    """The same seed makes the same images, after another call too."""
    report.checks.append("again")
    report.demand(same(list(images), list(runner.images(return_dict=True))), "the same call made other images")


def _check_alone(runner, batch, report):
    """An image of a batch is the one that a call for it alone makes."""
    call, arguments = report.call, report.call.values()
    count = expected_count(arguments)
    if count == 1 or not isinstance(arguments.get("generator"), list) or call.dtype not in ALONE:
        return
    report.checks.append("alone")
    index = random.Random(call.seed).randrange(count)
    alone = runner.latents(**alone_of(call, index))
    error = ((alone[0] - batch[index]).abs().max() / batch[index].std()).item()
    report.demand(error <= ALONE[call.dtype], f"image {index} of {count} differs from that made alone by {error:.2g}")


def alone_of(call: RandomCall, index: int) -> dict[str, Any]:
    """The arguments for one image of a call's batch."""
    arguments = call.values()
    row = index // arguments.get("num_images_per_prompt", 1)
    rows = expected_count(arguments) // arguments.get("num_images_per_prompt", 1)
    changed = {"num_images_per_prompt": 1, "generator": [arguments["generator"][index]]}
    changed["height"], changed["width"] = expected_size(call, arguments)
    if "latents" in arguments:
        changed["latents"] = arguments["latents"][index : index + 1]
    if "conditions" in arguments and _is_batch(arguments["conditions"]) and rows > 1:
        changed["conditions"] = arguments["conditions"][row]
    for name in (*BATCHED, "image", "mask_image"):
        value = arguments.get(name)
        if isinstance(value, list) and len(value) > 1:
            changed[name] = value[row]
        elif isinstance(value, (np.ndarray, torch.Tensor)) and _is_stack(name, value) and len(value) > 1:
            changed[name] = value[row : row + 1]
    return changed


def _is_stack(name, value):
    least = {"image": 4, "mask_image": 3}.get(name, 2)
    return value.ndim >= least


def _check_changes(runner, before, report):
    """A changed argument changes the images, or leaves them as they are, as it must."""
    chance = random.Random(report.call.seed + 1)
    for kind, number, sets, is_right in (
        ("effective", 2, EFFECTIVE, lambda after: after.shape != before.shape or not torch.equal(after, before)),
        ("neutral", 1, NEUTRAL, lambda after: after is not None and is_unchanged(after, before)),
    ):
        shuffled = ((change, change(runner)) for change in chance.sample(sets, len(sets)))
        possible = ((change, changed) for change, changed in shuffled if changed is not None)
        for change, changed in itertools.islice(possible, number):
            report.checks.append(f"{kind}: {change.__name__}")
            try:
                after = changed() if callable(changed) else runner.latents(**changed)
            except ValueError as error:
                if not any(re.match(pattern, str(error)) for pattern in REFUSALS):
                    raise
                continue
            complaint = "had no effect" if kind == "effective" else "changed the images"
            report.demand(is_right(after), f"{change.__name__} {complaint}")


def _check_illegal(runner, report):
    """An illegal call is one sentence, and nothing is computed before it."""
    chance, arguments = random.Random(report.call.seed + 2), report.call.values()
    possible = [(name, value) for name, value, applies in ILLEGAL if applies(report.call, arguments)]
    for name, make in chance.sample(possible, 3):
        report.checks.append(f"illegal: {name}")
        check_refusal(runner, report, make(report.call, arguments))


def check_refusal(runner: Runner, report: Report, wrong: dict[str, Any]) -> None:
    """Notes a complaint unless a call with wrong arguments is refused in one sentence before any work."""
    work = []
    hooks = [
        part.register_forward_pre_hook(lambda module, args: work.append(type(module).__name__))
        for part in (runner.pipe.unet, runner.pipe.vae.encoder, runner.pipe.text_encoder, runner.pipe.image_encoder)
    ]
    shown = ", ".join(f"{key}={str(value)[:60]}" for key, value in wrong.items())
    try:
        runner.images(**wrong)
    except (ValueError, TypeError) as error:
        text = str(error)
        is_sentence = text.endswith((".", ")")) and "\n" not in text and 15 < len(text) < 350
        report.demand(is_sentence, f"illegal {shown} is answered with {type(error).__name__}: {text}")
        report.demand(not work, f"illegal {shown} was refused after work by {set(work)}")
    except Exception as error:
        report.complaints.append(f"illegal {shown} raised {type(error).__name__}: {error}")
    else:
        report.complaints.append(f"illegal {shown} was accepted")
    finally:
        for hook in hooks:
            hook.remove()
