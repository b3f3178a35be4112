"""Noise from the generators of images."""

import torch
from diffusers.schedulers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor


def draw_noise(
    shape: tuple[int, ...], generator: torch.Generator | list[torch.Generator] | None, device: torch.device
) -> torch.Tensor:
    """Draws standard normal noise, float32.

    It is drawn on the generator's device. By default this is the CPU, so that a seed gives the same image on every
    device.

    Args:
        shape: Its shape, (N, …).
        generator: One generator, or one for each of the N entries.
        device: Device of the result.
    """
    first = generator[0] if isinstance(generator, list) else generator
    source = first.device if first is not None else torch.device("cpu")
    return randn_tensor(shape, generator=generator, device=source, dtype=torch.float32).to(device)


def set_noise_source(
    scheduler: SchedulerMixin, generator: torch.Generator | list[torch.Generator] | None, num_images: int
) -> None:
    """Has a scheduler that draws the noise of its steps from a seed of its own follow the generators of a call.

    Without it, DPM-Solver-SDE would make other images from the same generator, and from a list of generators images
    that depend on the rest of the batch.

    Args:
        scheduler: The scheduler; most take the generator itself in `step`, and are left as they are.
        generator: The call's generator or generators.
        num_images: Number of images.
    """
    if generator is None or not hasattr(scheduler, "noise_sampler_seed"):
        return
    is_one = isinstance(generator, torch.Generator)
    if scheduler.noise_sampler_seed is not None:
        seeds = scheduler.noise_sampler_seed if is_one else [scheduler.noise_sampler_seed] * num_images
    else:
        sources = [generator] * num_images if is_one else generator
        seeds = [torch.randint(2**63 - 1, (), generator=g, device=g.device).item() for g in sources]
    scheduler.noise_sampler_seed = seeds
