"""Reads the original's files without running anything that is in them. The only module that unpickles."""

import hashlib
import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from tqdm.auto import tqdm

from ..errors import first_line
from .errors import CheckpointError, HostileFileError
from .pickle_walk import check_pickle

# What the header of a Lightning training checkpoint of 2022 refers to beside tensors: callback classes, paths,
# configurations. Nothing in it is needed, so each becomes a `Placeholder`.
INERT_GLOBALS = re.compile(
    r"^(pytorch_lightning|lightning|lightning_fabric|omegaconf|pathlib|collections|typing|numpy)\b"
)


LEGACY_PICKLES = 5  # one after another, in the format before PyTorch 1.6


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
        _check_archive(path)
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from None
    # Encrypted archives and those of several disks end in a RuntimeError; pickles that are none in the others.
    except (zipfile.BadZipFile, RuntimeError, ValueError, LookupError, OverflowError, EOFError, OSError) as error:
        raise _damaged(path, error) from error
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # Files older than PyTorch 1.6 cannot be searched; without placeholders they still read safely.
        unsafe = []
    except Exception as error:
        raise _damaged(path, error) from error
    if refused := [name for name in unsafe if not INERT_GLOBALS.match(name)]:
        raise HostileFileError(
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
    return dict(checkpoint)


def is_archive(path: Path) -> bool:
    """Whether a file is a zip archive: to PyTorch by its beginning, or to Python by its end."""
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            return True
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it says that it is one, of several disks
        return True


def _check_archive(path):
    """Refuses archives that PyTorch would not have written, and pickles in them that are made to do harm.

    PyTorch never compresses; what is compressed could unfold into anything. Nor does it write anything before the
    archive: then its reader and Python's might find different ones.
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
            raise HostileFileError("the archive unfolds into more than it holds, which no checkpoint does.")
        for entry in entries:
            if entry.filename.endswith("data.pkl"):
                with archive.open(entry) as pickled:
                    check_pickle(pickled)


def state_dict_of(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """A state dict that has been made sure to be one.

    Raises:
        CheckpointError: If it is no mapping from names to ordinary tensors, or they are more than the file holds.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: the state dict is a {type(content).__name__}.")
    for name, tensor in content.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path}: {name!r} is no name of a tensor.")
        is_tensor = isinstance(tensor, torch.Tensor)
        if not is_tensor or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise CheckpointError(f"{path}: {name} is no ordinary tensor.")
        if num_bytes(tensor) > tensor.untyped_storage().nbytes():  # one number may stand for many
            raise HostileFileError(f"{path}: {name} unfolds into more numbers than the file holds.")
    return dict(content)


def num_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's numbers, each counted by itself."""
    return tensor.numel() * tensor.element_size()


def _load(path: Path):
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)  # the format before PyTorch 1.6


def _damaged(path, error):
    return CheckpointError(
        f"{path}: the file is no PyTorch checkpoint, or a truncated one; get it again. ({first_line(error)})"
    )


class ArrayDtype:
    """Stands in for `numpy.dtype` in a pickle: plain numbers only, as other kinds can be made to forge pointers."""

    def __init__(self, code: str, *_):
        if not isinstance(code, str) or not re.fullmatch(r"[<>=|]?[fiub][0-9]{1,2}", code):
            raise CheckpointError(f"the file holds an array of {str(code)[:20]!r}, which is no plain kind of number.")
        self.code, self.order = code.lstrip("<>=|"), "="

    def __setstate__(self, state):
        if state[1] not in ("<", ">", "=", "|"):
            raise CheckpointError("the file holds an array of an unknown byte order.")
        self.order = state[1]

    def array(self, data: Any, shape: Any, order: str, left: int) -> np.ndarray:
        """The array of these bytes.

        Raises:
            CheckpointError: If they do not have the length of the shape, or are more than what is left to be made.
        """
        dtype = np.dtype(self.code).newbyteorder(self.order)
        is_shape = isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)
        if not is_shape or not isinstance(data, (bytes, bytearray)) or len(data) != math.prod(shape) * dtype.itemsize:
            raise CheckpointError("the file holds an array whose data and shape differ in length.")
        if len(data) > left:
            raise HostileFileError("the file unfolds into more numbers than it holds.")
        return np.frombuffer(data, dtype).reshape(shape, order=order).astype(dtype.newbyteorder("="))


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that makes numpy arrays of plain numbers and nothing else.

    numpy's own functions are not called: they can be called in ways that forge pointers. What is called instead is
    made anew for every file, so that no file can leave something behind in it, and makes no more numbers than the file
    has bytes: a pickle can refer to the same bytes again and again.

    Args:
        file: The file.
        size: Its size in bytes.
    """

    def __init__(self, file: BinaryIO, size: int):
        super().__init__(file)
        left = left_encoded = size

        def make(dtype: Any, data: Any, shape: Any, order: str) -> np.ndarray:
            nonlocal left
            if not isinstance(dtype, ArrayDtype):
                raise CheckpointError("the file holds an array without a kind of number.")
            array = dtype.array(data, shape, order, left)
            left -= array.nbytes
            return array

        class Array(PickledArray):
            def __setstate__(self, state):
                _, shape, dtype, is_fortran, data = state
                self.value = make(dtype, data, shape, "F" if is_fortran else "C")

        class Dtype(ArrayDtype):
            pass

        def reconstruct(*_):
            return Array()

        def frombuffer(data, dtype, shape, order):
            array = Array()
            array.value = make(dtype, data, shape, "F" if order == "F" else "C")
            return array

        def scalar(dtype, data=b""):
            return frombuffer(data, dtype, (), "C")

        def latin1_bytes(text, encoding):
            """How an array's bytes are written in the oldest pickle formats, which have no bytes of their own."""
            if encoding != "latin1":
                raise CheckpointError(f"the file encodes bytes as {str(encoding)[:20]!r}, which no array does.")
            nonlocal left_encoded
            left_encoded -= len(text)
            if left_encoded < 0:
                raise HostileFileError("the file unfolds into more bytes than it holds.")
            return text.encode("latin1")

        # All that the pickle of a numpy array refers to, under the names of numpy 1 and numpy 2.
        self._known = {("numpy", "ndarray"): Array, ("numpy", "dtype"): Dtype, ("_codecs", "encode"): latin1_bytes}
        for package in ("numpy.core", "numpy._core"):
            self._known[f"{package}.multiarray", "_reconstruct"] = reconstruct
            self._known[f"{package}.multiarray", "scalar"] = scalar
            self._known[f"{package}.numeric", "_frombuffer"] = frombuffer

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._known:
            return self._known[module, name]
        if module.split(".")[0] in ("jax", "jaxlib"):
            raise CheckpointError(
                "the file holds JAX arrays, straight from training, which need JAX to be read. Where JAX is "
                'installed, save it with numpy arrays: jax.tree_util.tree_map(numpy.asarray, file["params"]).'
            )
        raise HostileFileError(
            f"the file refers to {module}.{name}, which no CLOOB checkpoint needs and which could run code. Nothing "
            f'of it was run. (If it is a training checkpoint of yours, save its "params" alone.)'
        )


class PickledArray:
    """Stands in for `numpy.ndarray` in a pickle; `value` is the array, once its content has been read."""

    value: np.ndarray | None = None


def read_cloob_pickle(path: str | Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Reads a CLOOB checkpoint of crowsonkb/cloob-training.

    Args:
        path: A `.pkl` file that holds {"params": (image, text)}, each a mapping from module to leaf to array.

    Returns:
        Tensors in JAX's layout, by "module/leaf", and the names of what the file holds beside them.

    Raises:
        CheckpointError: If the file is missing or damaged, holds anything but numpy arrays, or is no CLOOB.
    """
    path = check_file(path)
    try:
        with path.open("rb") as file:
            check_pickle(file)
            file.seek(0)
            checkpoint = ArrayUnpickler(file, path.stat().st_size).load()
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from None
    except Exception as error:
        raise CheckpointError(
            f"{path}: the file is no pickle, or a truncated one; get it again. ({first_line(error)})"
        ) from error

    params = checkpoint.get("params") if isinstance(checkpoint, dict) else None
    trees = params if isinstance(params, (tuple, list)) and len(params) == 2 else ()
    if not trees or not all(isinstance(tree, dict) for tree in trees):
        raise CheckpointError(f'{path}: no CLOOB checkpoint; it has no "params" of an image and a text encoder.')
    state = {}
    for module, leaves in (item for tree in trees for item in tree.items()):
        for leaf, array in leaves.items() if isinstance(leaves, dict) else [("", leaves)]:
            if not isinstance(array, PickledArray) or array.value is None or array.value.dtype.kind != "f":
                raise CheckpointError(f"{path}: {module}/{leaf} is no array of floating-point numbers.")
            state[f"{module}/{leaf}"] = torch.from_numpy(np.ascontiguousarray(array.value))
    return state, [str(key) for key in checkpoint if key != "params"]
