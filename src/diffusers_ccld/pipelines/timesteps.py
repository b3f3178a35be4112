"""Sets the timesteps of a run, which begins from pure noise or at an intermediate time."""

import math
from logging import getLogger
from typing import Any

import torch
from diffusers import HeunDiscreteScheduler, LMSDiscreteScheduler, PNDMScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps
from diffusers.schedulers import SchedulerMixin

from ..schedulers.names import is_ccld_scheduler
from ..schedulers.noise_schedule import (
    sampling_times,
    sigmas_to_t,
    t_to_alpha_sigma,
    t_to_timestep,
    timestep_to_t,
)
from ..utils.errors import first_line

# Attributes that the pipelines need. Schedulers for flow matching, for example, lack some of them.
NEEDED = ("step", "set_timesteps", "add_noise", "scale_model_input", "init_noise_sigma")

# diffusers' DDIM computes √(σ² − η²σ²) in float32. With η = 1 and the large σ of the first step, rounding can make the
# difference negative.
LARGEST_STOCK_ETA = 1 - 1e-6

# A step from σ₁/α₁ to σ₂/α₂ along an average of noise predictions multiplies the average's error by
# α₂·(σ₁/α₁ − σ₂/α₂). Beyond this the bundled model's pictures are too rough; at 30 its latents deviate by 80 instead
# of 1.
LARGEST_AVERAGED_STEP = 10


def check_scheduler(scheduler: SchedulerMixin) -> None:
    """Raises `ValueError` for a scheduler that lacks an attribute that sampling needs."""
    if not all(hasattr(scheduler, attribute) for attribute in NEEDED):
        raise ValueError(
            f"{type(scheduler).__name__} cannot sample with this network; use CCLDScheduler or another "
            f"one from docs/schedulers.md."
        )


def set_timesteps(
    scheduler: SchedulerMixin, steps: dict[str, Any], device: torch.device | None = None
) -> torch.Tensor:
    """Sets the timesteps of a run from pure noise, and checks that the network can be called at them.

    Args:
        scheduler: The scheduler.
        steps: The steps, as `SamplingCall.steps` gives them.
        device: Device of the timesteps.

    Returns:
        The timesteps.

    Raises:
        ValueError: If the scheduler does not accept these steps, or if its timesteps do not suit the network.
    """
    name, num_steps = type(scheduler).__name__, _count(steps)
    try:
        retrieve_timesteps(scheduler, device=device, **steps)
    except Exception as error:  # diffusers' schedulers raise errors of many types
        reason = first_line(error).rstrip(".")
        raise ValueError(
            f"{name} cannot take {num_steps} steps; give another number, or use CCLDScheduler. ({reason})"
        ) from error
    timesteps = scheduler.timesteps
    if not torch.isfinite(timesteps).all():
        raise ValueError(
            f"{name} cannot take {num_steps} steps: some of its timesteps are not finite. Give another "
            f"number, preferably above 10, or use CCLDScheduler."
        )
    num_train_timesteps = getattr(scheduler.config, "num_train_timesteps", 1000)
    if timesteps.min() < -1 or timesteps.max() >= num_train_timesteps or timesteps[0] < max(timesteps[-1], 1):
        raise ValueError(
            f"{name} has timesteps from {timesteps[0]:g} to {timesteps[-1]:g}. The network expects "
            f"{num_train_timesteps - 1} to 0; use CCLDScheduler or another one from docs/schedulers.md."
        )
    return timesteps


def set_start(
    scheduler: SchedulerMixin, steps: dict[str, Any], strength: float, device: torch.device | None = None
) -> torch.Tensor:
    """Sets the timesteps of a run that begins at an intermediate time.

    They are those timesteps of a run from pure noise that lie at or below this time.

    Args:
        scheduler: The scheduler.
        steps: The steps from pure noise, as `SamplingCall.steps` gives them.
        strength: The time at which the run begins, in (0, 1].
        device: Device of the timesteps.

    Returns:
        The timesteps.

    Raises:
        ValueError: If none of the steps remains, or if the scheduler does not accept the steps or cannot begin there.
    """
    if is_ccld_scheduler(scheduler):
        times = _times(scheduler, steps)
        kept = times[times <= strength]
        if len(kept):
            scheduler.set_timesteps(timesteps=t_to_timestep(kept), device=device)
            return scheduler.timesteps
    else:
        set_timesteps(scheduler, steps, device)
        begin = int((timestep_to_t(scheduler.timesteps) > strength).sum())
        begin = math.ceil(begin / scheduler.order) * scheduler.order  # a whole step may have several timesteps
        if begin < len(scheduler.timesteps):
            return _begin_at(scheduler, begin, strength)
    raise ValueError(
        f"strength={strength} leaves none of the {_count(steps)} steps; raise strength or num_inference_steps."
    )


def warn_of_large_steps(scheduler: SchedulerMixin) -> None:
    """Logs a warning if a run has steps so large that averages of noise predictions over them are far off.

    Args:
        scheduler: The scheduler, at the start of the run.
    """
    if is_ccld_scheduler(scheduler):
        times = torch.tensor(scheduler.averaged_intervals, dtype=torch.float64).reshape(-1, 2)
        alphas, sigmas = t_to_alpha_sigma(times)
        ratios, remedy = sigmas / alphas, 'algorithm_type="dpmpp"'
    elif isinstance(scheduler, HeunDiscreteScheduler):
        levels = scheduler.sigmas[scheduler.begin_index or 0 :][:-1]
        ratios, remedy = levels[: len(levels) // 2 * 2].reshape(-1, 2), "use_exponential_sigmas=True"
    else:
        return
    begins, ends = ratios.unbind(1)
    if ((begins - ends) / (1 + ends**2).sqrt() > LARGEST_AVERAGED_STEP).any():
        getLogger(__name__).warning(
            "The steps are too large for %s to average noise predictions over them: images will be rough or worse. "
            "Take more steps, or make the scheduler with %s.",
            type(scheduler).__name__,
            remedy,
        )


def _count(steps):
    """The number of steps of a run from pure noise."""
    return next(v if isinstance(v, int) else len(v) for v in steps.values() if v is not None)


def _times(scheduler, steps):
    """The times in [0, 1], float64, at which the steps begin."""
    if "num_inference_steps" in steps:
        return sampling_times(steps["num_inference_steps"], scheduler.config.timestep_schedule)
    scheduler.set_timesteps(**steps)  # raises if they are invalid
    if steps["sigmas"] is not None:
        return sigmas_to_t(steps["sigmas"])
    return timestep_to_t(torch.as_tensor(steps["timesteps"], dtype=torch.float64))


def _begin_at(scheduler, begin, strength):
    """Makes a scheduler of diffusers begin at an index of its timesteps. Returns the timesteps of the run."""
    timesteps = scheduler.timesteps[begin:]
    if begin and isinstance(scheduler, PNDMScheduler):
        if not scheduler.config.skip_prk_steps:
            raise ValueError(
                f"PNDMScheduler cannot begin at strength={strength}, because its warm-up needs the first steps. "
                f"Create it with skip_prk_steps=True, or use CCLDScheduler."
            )
        steps = timesteps.unique().flip(0)
        return torch.cat([steps[:2], steps[1:]])  # it evaluates the second timestep of every run twice
    if isinstance(scheduler, LMSDiscreteScheduler):
        # LMS derives the order of a step from its index, so the index must count from the start of this run.
        scheduler.timesteps, scheduler.sigmas, begin = timesteps, scheduler.sigmas[begin:], 0
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    return timesteps
