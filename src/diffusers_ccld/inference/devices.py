"""Choice of device and precision."""

import logging

import torch

from ..utils.errors import first_line
from .names import PRECISIONS

logger = logging.getLogger(__name__)

DTYPES = {name: getattr(torch, dtype) for name, dtype in PRECISIONS.items()}


def name_of_dtype(dtype: torch.dtype) -> str:
    """The name of a precision; that of torch for one that is not ours."""
    return next((name for name, ours in DTYPES.items() if ours == dtype), str(dtype).removeprefix("torch."))


def usable_dtype(name: str, device: torch.device) -> str:
    """Resolves "auto" to the fastest precision whose pictures look the same; returns other names unchanged.

    Warns of bfloat16 by name on a CPU that emulates it.
    """
    if name != "auto":
        if name == "bf16":
            warn_of_emulated_bfloat16(device)
        return name
    return "bf16" if computes_in_bfloat16(device) else "fp32"


def computes_in_bfloat16(device: torch.device) -> bool:
    """Returns True if a device has instructions for bfloat16; other devices emulate it slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def warn_of_emulated_bfloat16(device: torch.device) -> None:
    """Logs a warning if a device is a CPU without instructions for bfloat16."""
    if device.type == "cpu" and not computes_in_bfloat16(device):
        logger.warning(
            "This CPU has no instructions for bfloat16 (AVX512-BF16 or AMX) and emulates them: training was measured "
            "67 times slower than in float32. Use float32, or auto to let the hardware decide."
        )


def usable_device(name: str | None) -> torch.device:
    """Returns the named device, or by default the GPU if available, else the CPU.

    Raises:
        ValueError: If the device does not exist.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: the device is not available. ({first_line(error)})") from error
