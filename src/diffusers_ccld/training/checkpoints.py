"""Checkpoints of a training run. A checkpoint is complete on disk, or does not exist."""

import re
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import save_file

from ..utils.errors import first_line
from ..utils.files import remove_folder, replace_folder
from .ema import EMA, is_sharded
from .state import STATE_NAME, RunState

CHECKPOINT_NAME = re.compile(r"step-(\d{8})")

# The files of a checkpoint by their names on one process. Further processes add files of their own number, and sharded
# networks shards in place of the first ones.
FILES = {
    STATE_NAME: "JSON: the progress below",
    "average-0.safetensors": "the moving average of the trained weights, float32",
    "model.safetensors": "the network, by accelerate",
    "optimizer.bin": "the optimiser, by accelerate; `optimizer_1.bin` and further ones if there are several",
    "scheduler.bin": "the schedule of the learning rate, by accelerate",
    "random_states_0.pkl": "the states of all random generators, by accelerate",
}


def save_checkpoint(accelerator: Accelerator, ema: EMA, state: RunState, folder: Path, limit: int = 0) -> None:
    """Writes a checkpoint under a temporary name, moves it into place, and then removes old ones.

    Args:
        accelerator: Saves the network, optimisers and generators.
        ema: The moving average of the weights.
        state: The progress of the run; the main process writes it.
        folder: The checkpoint's folder.
        limit: Number of checkpoints to keep, including this one; 0 for all.

    Raises:
        OSError: If it cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.part")
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(temporary))
        if accelerator.is_main_process or is_sharded(accelerator):
            ema.save(temporary / _ema_name(accelerator))
    except (SafetensorError, RuntimeError) as error:  # raised by the libraries when the disk is full
        raise OSError(
            f"{folder} cannot be written; the earlier checkpoints are complete. ({first_line(error)})"
        ) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        state.write(temporary)
        replace_folder(temporary, folder)
        if limit:
            for old in list_checkpoints(folder.parent)[:-limit]:
                if old != folder:
                    remove_folder(old)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, ema: EMA, folder: Path) -> None:
    """Restores everything that `save_checkpoint` saved except the state, which `read_state` reads.

    Raises:
        ValueError: If the checkpoint is damaged, or belongs to another network.
    """
    try:
        accelerator.load_state(str(folder))
        ema.load(folder / _ema_name(accelerator))
    except (SafetensorError, RuntimeError, OSError, EOFError) as error:
        raise ValueError(
            f"{folder} cannot be loaded: it is damaged, or belongs to another network. ({first_line(error)})"
        ) from error
    # The restored count of accumulated batches may belong to another accumulation. A checkpoint has no such batches.
    accelerator.step = 0


def _ema_name(accelerator: Accelerator) -> str:
    return f"average-{accelerator.process_index if is_sharded(accelerator) else 0}.safetensors"


def save_batch(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Saves the batch of a failed step into the folder of its checkpoint."""
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if CHECKPOINT_NAME.fullmatch(path.name))


def find_checkpoint(folder: Path, resume: str | None) -> Path | None:
    """Finds the checkpoint to resume from.

    Args:
        folder: Folder of a run's checkpoints.
        resume: Folder of a checkpoint, "latest" for the newest complete one, or `None` for a new run.

    Returns:
        The checkpoint. `None` for a new run, and for "latest" if the run has no checkpoint yet.

    Raises:
        ValueError: If the checkpoint does not exist, or if two runs would share the folder.
    """
    existing = list_checkpoints(folder)
    if resume is None:
        if existing:
            steps = int(existing[-1].name.rpartition("-")[2])
            raise ValueError(
                f"{folder.parent} has a run already, of {steps:,} steps. --resume latest continues it, a complete one "
                f"with a higher --max-steps. To start anew, give another --output-dir, or delete {folder.parent}."
            )
        return None
    if resume == "latest":
        return existing[-1] if existing else None
    checkpoint = Path(resume)
    if not (checkpoint / STATE_NAME).is_file():
        raise ValueError(f"--resume {resume}: not a checkpoint.")
    if existing and checkpoint.resolve().parent != folder.resolve():
        raise ValueError(f"--resume {resume}: {folder} has checkpoints of another run; give another output folder.")
    return checkpoint


def tidy_checkpoints(folder: Path, checkpoint: Path | None) -> None:
    """Removes leftovers of killed processes, and all checkpoints later than the one that a run resumes from."""
    for leftover in [*folder.glob(".*step-*.part"), *folder.glob(".*step-*.old")]:
        shutil.rmtree(leftover, ignore_errors=True)
    for later in list_checkpoints(folder):
        if checkpoint is not None and later.name > checkpoint.name:
            remove_folder(later)
