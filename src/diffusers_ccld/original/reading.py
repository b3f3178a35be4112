"""Reads the original's files without running anything that is in them. The only module that unpickles."""

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

# What the header of a Lightning training checkpoint of 2022 refers to beside tensors: callback classes, paths,
# configurations. Nothing in it is needed, so each becomes a `Placeholder`.
INERT_GLOBALS = re.compile(
    r"^(pytorch_lightning|lightning|lightning_fabric|omegaconf|pathlib|collections|typing|numpy)\b"
)

# All that the pickle of a numpy array refers to, under the names of numpy 1 and numpy 2.
ARRAY_GLOBALS = {
    (module, name)
    for package in ("numpy.core", "numpy._core")
    for module, name in (
        (f"{package}.multiarray", "_reconstruct"),
        (f"{package}.multiarray", "scalar"),
        (f"{package}.numeric", "_frombuffer"),
    )
} | {("numpy", "ndarray"), ("numpy", "dtype")}


class CheckpointError(ValueError):
    """A file is not what it should be. The message says what is wrong and what to do about it."""


class Placeholder:
    """Stands in for an object of a checkpoint's header; it can be made, filled and compared, and does nothing."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass


def check_file(path: str | Path) -> Path:
    """The path, if there is a file.

    Raises:
        CheckpointError: If there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file.")
    return path


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, with a progress bar for large ones."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    bar = tqdm(total=size, unit="B", unit_scale=True, desc=f"SHA-256 of {path.name}", disable=size < 2**28)
    with path.open("rb") as file, bar:
        while block := file.read(2**22):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a PyTorch file, memory-mapped where its format allows it.

    Args:
        path: A `.ckpt` or `.pt` file: a state dict or a Lightning training checkpoint.

    Returns:
        What the file holds. Objects of a Lightning header are `Placeholder`s.

    Raises:
        CheckpointError: If the file is missing or damaged, holds no dictionary, or refers to code that a checkpoint
            has no use for. Such code is not run.
    """
    path = check_file(path)
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # Files older than PyTorch 1.6 cannot be searched; without placeholders they still read safely.
        unsafe = []
    except Exception as error:
        raise _damaged(path, error) from error
    if refused := [name for name in unsafe if not INERT_GLOBALS.match(name)]:
        raise CheckpointError(
            f"{path}: the file refers to {', '.join(sorted(refused))}, which no checkpoint of CCLD needs and which "
            f"could run code. Nothing of it was run. Get the file from a source you trust."
        )
    placeholders = [(type(name.rpartition(".")[2], (Placeholder,), {}), name) for name in unsafe]
    with torch.serialization.safe_globals(placeholders):
        try:
            checkpoint = _load(path)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{path}: the file is no PyTorch checkpoint, or holds something other than tensors. Nothing of it was "
                f"run."
            ) from error
        except Exception as error:
            raise _damaged(path, error) from error
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f"{path}: the file holds a {type(checkpoint).__name__}, not a checkpoint.")
    return checkpoint


def _load(path: Path):
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)  # the format before PyTorch 1.6


def _damaged(path, error):
    return CheckpointError(
        f"{path}: the file is no PyTorch checkpoint, or a truncated one; get it again. ({_first_line(error)})"
    )


def _first_line(error):
    return str(error).strip().partition("\n")[0]


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """How an array's bytes are written in the oldest pickle formats, which have no bytes of their own."""
    if encoding != "latin1":
        raise CheckpointError(f"the file encodes bytes as {encoding!r}, which no array does.")
    return text.encode("latin1")


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that makes numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ARRAY_GLOBALS:
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return _latin1_bytes
        if module.split(".")[0] in ("jax", "jaxlib"):
            raise CheckpointError(
                "the file holds JAX arrays, straight from training, which need JAX to be read. Where JAX is "
                'installed, save it with numpy arrays: jax.tree_util.tree_map(numpy.asarray, file["params"]).'
            )
        raise CheckpointError(
            f"the file refers to {module}.{name}, which no CLOOB checkpoint needs and which could run code. Nothing "
            f'of it was run. (If it is a training checkpoint of yours, save its "params" alone.)'
        )


def read_cloob_pickle(path: str | Path) -> dict[str, torch.Tensor]:
    """Reads a CLOOB checkpoint of crowsonkb/cloob-training.

    Args:
        path: A `.pkl` file that holds {"params": (image, text)}, each a mapping from module to leaf to array.

    Returns:
        Tensors in JAX's layout, by "module/leaf".

    Raises:
        CheckpointError: If the file is missing or damaged, holds anything but numpy arrays, or is no CLOOB.
    """
    path = check_file(path)
    try:
        with path.open("rb") as file:
            checkpoint = ArrayUnpickler(file).load()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:
        raise CheckpointError(
            f"{path}: the file is no pickle, or a truncated one; get it again. ({_first_line(error)})"
        ) from error

    params = checkpoint.get("params") if isinstance(checkpoint, dict) else None
    if not isinstance(params, (tuple, list)) or len(params) != 2:
        raise CheckpointError(f'{path}: no CLOOB checkpoint; it has no "params" of an image and a text encoder.')
    state = {}
    for tree in params:
        for module, leaves in tree.items():
            for leaf, array in leaves.items():
                if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
                    raise CheckpointError(f"{path}: {module}/{leaf} is no array of floating-point numbers.")
                state[f"{module}/{leaf}"] = torch.from_numpy(np.ascontiguousarray(array))
    return state
