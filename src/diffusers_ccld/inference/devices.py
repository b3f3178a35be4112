"""Where to compute, and in which precision."""

import torch

from ..utils.errors import first_line
from .names import PRECISIONS

DTYPES = {name: getattr(torch, dtype) for name, dtype in PRECISIONS.items()}


def usable_dtype(name: str, device: torch.device) -> str:
    """The precision of a name, one of `DTYPES`; for "auto" the fastest that paints the same pictures to the eye."""
    if name != "auto":
        return name
    return "bf16" if computes_in_bfloat16(device) else "fp32"


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; others imitate it, slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


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
