"""What decides a run's future, on disk: written whole or not at all, and the moving average of the weights."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import save_file

from ..utils.errors import first_line
from ..utils.files import remove_folder, replace_folder
from .ema import WeightAverage, is_sharded

PROGRESS_NAME = "progress.json"
CHECKPOINT_NAME = re.compile(r"step-(\d{8})")


# Checkpoints


def save_checkpoint(
    accelerator: Accelerator, average: WeightAverage, progress: dict[str, Any], folder: Path, limit: int = 0
) -> None:
    """Writes a checkpoint under a temporary name, moves it into place, and removes old ones then.

    Args:
        accelerator: Saves the network, optimiser and generators.
        average: The weights' average.
        progress: What else decides the future, as JSON; the same on every process.
        folder: Where the checkpoint shall be.
        limit: How many checkpoints to keep, this one included; 0 for all.

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
            average.save(temporary / _average_name(accelerator))
    except (SafetensorError, RuntimeError) as error:  # what a full disk is to the libraries
        raise OSError(
            f"{folder} cannot be written; the checkpoints before it are whole. ({first_line(error)})"
        ) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (temporary / PROGRESS_NAME).write_text(json.dumps(progress, indent=2) + "\n")
        replace_folder(temporary, folder)
        if limit:
            for old in list_checkpoints(folder.parent)[:-limit]:
                if old != folder:
                    remove_folder(old)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, average: WeightAverage, folder: Path) -> None:
    """Restores what `save_checkpoint` saved; its progress is `read_progress`'s.

    Raises:
        ValueError: If it is damaged, or of another network.
    """
    try:
        accelerator.load_state(str(folder))
        average.load(folder / _average_name(accelerator))
    except (SafetensorError, RuntimeError, OSError, EOFError) as error:
        raise ValueError(
            f"{folder} cannot be loaded: it is damaged, or of another network. ({first_line(error)})"
        ) from error
    # Batches accumulated so far: a checkpoint has none, and accelerate's own count may be of another accumulation.
    accelerator.step = 0


def _average_name(accelerator):
    return f"average-{accelerator.process_index if is_sharded(accelerator) else 0}.safetensors"


def save_batch(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes tensors beside a checkpoint, for whoever looks into a failed step."""
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if CHECKPOINT_NAME.fullmatch(path.name))


def find_checkpoint(folder: Path, resume: str | None) -> Path | None:
    """The checkpoint to go on from.

    Args:
        folder: Where a run's checkpoints are.
        resume: A checkpoint's folder, "latest" for the newest complete one, or `None` for a new run.

    Returns:
        The checkpoint, or `None` to begin: "latest" of a run that has none yet is its beginning.

    Raises:
        ValueError: If there is no such checkpoint, or a new run would mix with another one.
    """
    existing = list_checkpoints(folder)
    if resume is None:
        if existing:
            raise ValueError(
                f"{folder} has checkpoints of a run already. Give --resume latest to go on with it, or another "
                f"output folder."
            )
        return None
    if resume == "latest":
        return existing[-1] if existing else None
    checkpoint = Path(resume)
    if not (checkpoint / PROGRESS_NAME).is_file():
        raise ValueError(f"--resume {resume}: there is no checkpoint.")
    if existing and checkpoint.resolve().parent != folder.resolve():
        raise ValueError(f"--resume {resume}: {folder} has checkpoints of another run; give another output folder.")
    return checkpoint


def read_progress(checkpoint: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of the run's progress.

    Args:
        checkpoint: The checkpoint.
        identity: What may not change while a run lasts, as JSON; "identity" of the progress that was saved.

    Raises:
        ValueError: If it has changed.
    """
    progress = json.loads((checkpoint / PROGRESS_NAME).read_text())
    before, now = progress["identity"], json.loads(json.dumps(identity))
    changed = [f"{key} was {before.get(key)} and is {now[key]}" for key in now if before.get(key) != now[key]]
    if changed:
        raise ValueError(f"{checkpoint} is of another run: {'; '.join(changed)}.")
    return progress


def tidy_checkpoints(folder: Path, checkpoint: Path | None) -> None:
    """Removes what killed processes have left behind, and the checkpoints after the one that a run goes on from."""
    for leftover in [*folder.glob(".*step-*.part"), *folder.glob(".*step-*.old")]:
        shutil.rmtree(leftover, ignore_errors=True)
    for later in list_checkpoints(folder):
        if checkpoint is not None and later.name > checkpoint.name:
            remove_folder(later)
