"""Where to compute."""

import torch

from .errors import first_line


def usable_device(name: str | None) -> torch.device:
    """The device of a name, or the best there is.

    Raises:
        ValueError: If there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: there is no such device. ({first_line(error)})") from error
