"""Reads PyTorch checkpoints without running code from them."""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ...utils.errors import first_line
from ..errors import CheckpointError, HostileFileError, check_file
from .kinds import check_kind
from .pickle_walk import check_pickle

# Objects other than tensors in the header of a Lightning training checkpoint of 2022: callback classes, paths,
# configurations. None of them is needed, so each becomes a `Placeholder`.
INERT_GLOBALS = re.compile(
    r"^(pytorch_lightning|lightning|lightning_fabric|omegaconf|pathlib|collections|typing|numpy)\b"
)

LEGACY_PICKLES = 5  # one after another, in the format before PyTorch 1.6


class Placeholder:
    """Stands in for an object of a checkpoint's header. It can be constructed and filled, and does nothing."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass


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


# Encrypted archives and those of several disks raise a RuntimeError, invalid pickles the others: a MemoryError for a
# text that would be longer than any file.
PARSING_ERRORS = (
    *(zipfile.BadZipFile, RuntimeError, ValueError, LookupError),
    *(OverflowError, EOFError, OSError, MemoryError),
)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a PyTorch file, memory-mapped where its format allows it.

    Args:
        path: A `.ckpt` or `.pt` file: a state dict or a Lightning training checkpoint.

    Returns:
        The content of the file. Objects of a Lightning header are `Placeholder`s.

    Raises:
        CheckpointError: If the file is missing or damaged, does not contain a dictionary, or refers to code that a
            checkpoint does not need. Such code is not run.
    """
    path = check_file(path)
    check_kind(path)
    try:
        _check_archive(path)
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from None
    except PARSING_ERRORS as error:
        raise _damaged(path, error) from error
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # Files older than PyTorch 1.6 cannot be searched. Without placeholders they are still safe.
        unsafe = []
    except Exception as error:
        raise _damaged(path, error) from error
    if refused := [name for name in unsafe if not INERT_GLOBALS.match(name)]:
        raise HostileFileError(
            f"{path}: the file refers to {', '.join(sorted(refused))}, which a checkpoint of CCLD does not "
            f"need and which could run code. Nothing in it was run. Get the file from a source you trust."
        )
    placeholders = [(type(name.rpartition(".")[2], (Placeholder,), {}), name) for name in unsafe]
    with torch.serialization.safe_globals(placeholders):
        try:
            checkpoint = _load(path)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{path}: the file is not a PyTorch checkpoint, or contains something other than tensors. "
                f"Nothing in it was run."
            ) from error
        except Exception as error:
            raise _damaged(path, error) from error
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f"{path}: the file contains a {type(checkpoint).__name__}, not a checkpoint.")
    return dict(checkpoint)


def is_archive(path: Path) -> bool:
    """True if PyTorch, by the first bytes, or Python, by the last ones, would read a file as a zip archive."""
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            return True
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # an archive of several disks
        return True


def _check_archive(path):
    """Rejects archives that PyTorch would not have written, and malicious pickles in them.

    PyTorch never compresses: compressed data could expand to any size. It never writes anything before the archive
    either: PyTorch's reader and Python's might then find different archives.
    """
    if not is_archive(path):
        with path.open("rb") as file:
            for _ in range(LEGACY_PICKLES):
                check_pickle(file)
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        is_plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        begins_at_once = min((entry.header_offset for entry in entries), default=0) == 0
        if not is_plain or not begins_at_once or sum(e.file_size for e in entries) > path.stat().st_size:
            raise HostileFileError(
                "the archive expands into more data than it contains, which a checkpoint never does."
            )
        for entry in entries:
            if entry.filename.endswith("data.pkl"):
                with archive.open(entry) as pickled:
                    check_pickle(pickled)


def state_dict_of(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """Checks that an object is a state dict, and returns it as a dictionary.

    Raises:
        CheckpointError: If it is not a mapping from names to ordinary tensors, or has more numbers than the file.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: the state dict is a {type(content).__name__}.")
    for name, tensor in content.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path}: {name!r} is not a name of a tensor.")
        is_tensor = isinstance(tensor, torch.Tensor)
        if not is_tensor or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise CheckpointError(f"{path}: {name} is not an ordinary tensor.")
        if num_bytes(tensor) > tensor.untyped_storage().nbytes():  # strides of zero repeat numbers
            raise HostileFileError(f"{path}: {name} expands into more numbers than the file contains.")
    return dict(content)


def num_bytes(tensor: torch.Tensor) -> int:
    """Bytes of all numbers of a tensor, including repeated ones."""
    return tensor.numel() * tensor.element_size()


def _load(path: Path):
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)  # the format before PyTorch 1.6


def _damaged(path, error):
    with path.open("rb") as file:
        begins = file.read(4)
        file.seek(0)
        is_begun = begins == b"PK\x03\x04" or (begins[:1] == b"\x80" and not _is_whole_pickle(file))
    what = "truncated or damaged; download it again" if is_begun else "not a PyTorch checkpoint"
    return CheckpointError(f"{path}: the file is {what}. ({first_line(error)})")


def _is_whole_pickle(file):
    """True for a pickle to its end, such as a CLOOB's; PyTorch writes several, one after the other."""
    try:
        check_pickle(file)
    except Exception:  # whatever its parser stumbles over
        return False
    return True
