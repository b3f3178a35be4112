"""The processes of a run: accelerator, interruption, gradients."""

import math
import os
import signal
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import ProjectConfiguration, gather_object
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..inference.devices import computes_in_bfloat16, warn_of_emulated_bfloat16
from ..utils.locks import lock_path, refuse_if_in_use
from .config import RunConfig
from .ema import is_sharded


def make_accelerator(config: RunConfig, may_shard: bool = False) -> Accelerator:
    """Makes the accelerator of a run and seeds torch. It uses a GPU if available, and all launched processes.

    Args:
        config: The run's settings.
        may_shard: True if the script can train a sharded network (FSDP, DeepSpeed).

    Raises:
        FolderInUseError: If another run writes the run's folder.
        ValueError: If a tracker is not installed, the launched processes do not find one another, or they would shard
            a network that cannot be sharded.
    """
    missing = set(config.trackers) - {str(tracker) for tracker in get_available_trackers()}
    if missing:
        raise ValueError(f"--report-to {' '.join(sorted(missing))}: not installed; pip install it, or leave it out.")
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    wants_fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and wants_fsdp and launched > 1:
        # accelerate refuses to shard on a CPU. FSDP itself works there once accelerate takes the CPU for an XPU, and
        # accelerate has no public way to say so.
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
    if wants_fsdp and os.environ.get("FSDP_VERSION", "1") == "1":
        raise ValueError("Sharded training needs `fsdp_version: 2` in accelerate's configuration.")
    device = torch.device("cpu") if on_cpu else torch.accelerator.current_accelerator()
    precision, origin = choose_precision(config.mixed_precision, device)
    accelerator = Accelerator(
        cpu=on_cpu and not wants_fsdp,
        mixed_precision=precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=config.trackers or None,
        project_config=ProjectConfiguration(config.output_dir, logging_dir=str(Path(config.output_dir) / "logs")),
    )
    if accelerator.num_processes != launched:
        raise ValueError(
            f"{launched} processes were launched, and each would train on its own. Launch them with "
            f"`accelerate launch --multi_gpu --num_processes {launched}`."
        )
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None:
        if plugin.zero_stage == 3:
            raise ValueError("The moving average needs whole weights: use DeepSpeed's stage 1 or 2, or FSDP.")
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = config.train_batch_size
        plugin.deepspeed_config["gradient_clipping"] = config.max_grad_norm or 0.0
    if not may_shard and (is_sharded(accelerator) or plugin is not None):
        raise ValueError("This script cannot shard its network: launch it with accelerate's DDP.")
    if origin is not None:
        accelerator.print(f"precision: {'float32' if precision == 'no' else precision}, {origin}")
    if accelerator.mixed_precision == "bf16" and accelerator.is_main_process:
        warn_of_emulated_bfloat16(device)
    if accelerator.is_main_process and not config.dry_run:
        refuse_if_in_use(lock_path(Path(config.output_dir)))  # `start_run` takes it, after all that is slow to load
    torch.manual_seed(config.seed)
    return accelerator


def choose_precision(wanted: str, device: torch.device) -> tuple[str, str | None]:
    """Resolves the precision "auto".

    `accelerate launch` exports the precision of its options or its configuration, and "no" if they name none. So only
    another precision than "no" counts as named.

    Args:
        wanted: The setting `mixed_precision`.
        device: The device that will train.

    Returns:
        The precision for accelerate, and the reason in words if "auto" was resolved, else `None`.
    """
    if wanted != "auto":
        return wanted, None
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if launched != "no":
        return launched, "from accelerate's configuration"
    if computes_in_bfloat16(device):
        return "bf16", f"which this {device.type} computes in"
    return "no", f"as this {device.type} does not compute in bf16"


def attention_for_training(accelerator: Accelerator) -> AbstractContextManager:
    """Context of a forward pass: in bfloat16 on a CPU, attention as plain matrix products.

    The gradient of torch's fused attention takes two fifths of a step there, because the sequences are short: 64
    pixels and fewer in the bundled U-Net. With plain attention a step takes a quarter less time.
    """
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16":
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


class Interruption:
    """Notes SIGINT and SIGTERM while it is entered, so that a run can end after its step. A second SIGINT raises.

    Processes that read images must ignore both signals: the rest of the step needs them.

    Attributes:
        signal: The signal received; `None` if there was none.
    """

    def __init__(self):
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def requested(self, accelerator: Accelerator) -> bool:
        """True if any process received a signal. All processes must call it."""
        if accelerator.num_processes == 1:
            return self.signal is not None
        flag = torch.tensor([self.signal is not None], dtype=torch.float32, device=accelerator.device)
        return accelerator.reduce(flag, reduction="sum").item() > 0


def clip_gradient(
    accelerator: Accelerator, parameters: Iterable[torch.nn.Parameter], max_norm: float | None
) -> torch.Tensor:
    """Clips the gradient to `max_norm`, if given; returns its norm before that, a scalar."""
    norm = accelerator.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm)
    if norm is None:  # DeepSpeed clips within its own step
        norm = 0.0
    return torch.as_tensor(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def gather_stream_positions(accelerator: Accelerator, batch: dict[str, Any]) -> list[list[int]] | None:
    """Epoch and offset of each process in its stream after a batch; `None` without a stream."""
    if "offset" not in batch:
        return None
    own = [[batch["epoch"], batch["offset"]]]
    return gather_object(own) if accelerator.num_processes > 1 else own
