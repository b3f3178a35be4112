"""The arguments of a pipeline call as one value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline

from .conditions import Prompts, is_count, is_finite_number

USUAL_GUIDANCE_SCALE = 3.0

StepCallback = Callable[[DiffusionPipeline, int, torch.Tensor, dict], dict]
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass(frozen=True, kw_only=True, eq=False)
class SamplingCall(Prompts):
    """All arguments of a pipeline call, by name; `CCLDPipeline.__call__` documents them.

    Construction checks what is the same for every pipeline; `CCLDPipelineBase.prepare_call` fills in a pipeline's
    defaults and checks the rest.

    Raises:
        TypeError: As for `Prompts`, or if `generator` is not a generator, or a callback not a function.
        ValueError: As for `Prompts`.
    """

    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    variation: float | None = None
    num_images_per_prompt: int = 1
    eta: float = 0.0
    generator: torch.Generator | list[torch.Generator] | None = None
    latents: torch.Tensor | None = None
    output_type: str = "pil"
    return_dict: bool = True
    callback_on_step_end: StepCallback | None = None
    callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",)

    @classmethod
    def of(cls, arguments: dict[str, Any], **changes: Any) -> Self:
        """Makes a call from the `locals()` of a method that has no other variables than its arguments yet.

        The arguments are thus listed only once, in the method's signature.
        """
        return cls(**{name: value for name, value in arguments.items() if name != "self"} | changes)

    def __post_init__(self):
        super().__post_init__()
        steps = self.num_inference_steps
        if not (steps is None or is_count(steps)) or not is_count(self.num_images_per_prompt):
            raise ValueError(
                f"num_inference_steps={steps} and num_images_per_prompt={self.num_images_per_prompt} must be whole "
                f"numbers, at least 1."
            )
        if self.guidance_scale is not None and not is_finite_number(self.guidance_scale):
            raise ValueError(f"guidance_scale={self.guidance_scale!r} must be a finite number.")
        if not is_finite_number(self.eta) or not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta!r} must be a number in [0, 1].")
        if self.output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type={self.output_type!r}: choose one of {str(OUTPUT_TYPES)[1:-1]}.")
        generators = self.generator if isinstance(self.generator, list) else [self.generator]
        if self.generator is not None and not all(isinstance(g, torch.Generator) for g in generators):
            raise TypeError("generator must be a torch.Generator or a list of such.")
        callback, names = self.callback_on_step_end, self.callback_on_step_end_tensor_inputs
        if callback is not None and not callable(callback):
            raise TypeError(f"callback_on_step_end must be a function, not {type(callback).__name__}.")
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"callback_on_step_end_tensor_inputs must be a list of names, not {names!r}.")

    @property
    def num_images(self) -> int:
        """Number of images that the call makes."""
        return self.batch_size * self.num_images_per_prompt


def check_settings(
    default_num_inference_steps: int | None,
    max_guidance_scale: float | None,
    default_guidance_scale: float | None,
    default_variation: float | None,
) -> None:
    """Raises `ValueError` for a model's own defaults and limits that are not numbers of their kind."""
    if default_num_inference_steps is not None and not is_count(default_num_inference_steps):
        raise ValueError(f"default_num_inference_steps={default_num_inference_steps!r} must be a whole number from 1.")
    numbers = {
        "max_guidance_scale": max_guidance_scale,
        "default_guidance_scale": default_guidance_scale,
        "default_variation": default_variation,
    }
    for name, value in numbers.items():
        if value is not None and not is_finite_number(value):
            raise ValueError(f"{name}={value!r} must be a finite number.")


def usual_guidance_scale(given: float | None, own: float | None, largest: float | None) -> float:
    """Returns a given guidance scale, or else a model's own, or else 3; the latter two as far as it was learned.

    Args:
        given: The guidance scale of a call, if it has one.
        own: The model's `default_guidance_scale`.
        largest: The model's `max_guidance_scale`.
    """
    if given is not None:
        return given
    usual = USUAL_GUIDANCE_SCALE if own is None else own
    return usual if largest is None else min(usual, largest)
