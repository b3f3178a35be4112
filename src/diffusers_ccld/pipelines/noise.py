"""Noise from the generators of images."""

import torch
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
