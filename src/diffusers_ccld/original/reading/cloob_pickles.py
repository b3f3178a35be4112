"""Reads CLOOB's pickles without running code from them."""

import math
import pickle
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from ...utils.errors import first_line
from ..errors import CheckpointError, HostileFileError, check_file
from .kinds import check_kind
from .pickle_walk import check_pickle


class ArrayDtype:
    """Stands in for `numpy.dtype` in a pickle. It accepts plain numbers only: other kinds can forge pointers."""

    def __init__(self, code: str, *_):
        if not isinstance(code, str) or not re.fullmatch(r"[<>=|]?[fiub][0-9]{1,2}", code):
            raise CheckpointError(
                f"the file contains an array of {str(code)[:20]!r}, which is not a plain numeric type."
            )
        self.code, self.order = code.lstrip("<>=|"), "="

    def __setstate__(self, state):
        if state[1] not in ("<", ">", "=", "|"):
            raise CheckpointError("the file contains an array of an unknown byte order.")
        self.order = state[1]

    def array(self, data: Any, shape: Any, order: str, left: int) -> np.ndarray:
        """Returns the array of the given bytes.

        Raises:
            CheckpointError: If the bytes do not match the shape, or are more than `left`, the bytes still allowed.
        """
        dtype = np.dtype(self.code).newbyteorder(self.order)
        is_shape = isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)
        if not is_shape or not isinstance(data, (bytes, bytearray)) or len(data) != math.prod(shape) * dtype.itemsize:
            raise CheckpointError("the file contains an array whose data and shape differ in length.")
        if len(data) > left:
            raise HostileFileError("the file expands into more numbers than it contains.")
        return np.frombuffer(data, dtype).reshape(shape, order=order).astype(dtype.newbyteorder("="))


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that makes numpy arrays of plain numbers and nothing else.

    numpy's own functions are not called, because certain arguments make them forge pointers. Each file has its own
    replacements, so a file cannot change how the next one is read. The replacements create at most as many bytes as
    the file has, because a pickle can refer to the same bytes repeatedly.

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
                raise CheckpointError("the file contains an array without a numeric type.")
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
            """Decodes an array's bytes in the oldest pickle formats, which have no type for bytes."""
            if encoding != "latin1":
                raise CheckpointError(f"the file encodes bytes as {str(encoding)[:20]!r}, which arrays never are.")
            nonlocal left_encoded
            left_encoded -= len(text)
            if left_encoded < 0:
                raise HostileFileError("the file expands into more bytes than it contains.")
            return text.encode("latin1")

        # Everything that the pickle of a numpy array refers to, under the names of numpy 1 and numpy 2.
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
                "the file holds JAX arrays of a training run, and reading them needs JAX. Where JAX is installed, "
                'save it with numpy arrays: jax.tree_util.tree_map(numpy.asarray, file["params"]).'
            )
        raise HostileFileError(
            f"the file refers to {module}.{name}, which a CLOOB checkpoint does not need and which could run "
            f'code. Nothing in it was run. (If it is your own checkpoint, save only its "params".)'
        )


class PickledArray:
    """Stands in for `numpy.ndarray` in a pickle; `value` is the array after its content was read."""

    value: np.ndarray | None = None


def read_cloob_pickle(path: str | Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Reads a CLOOB checkpoint of crowsonkb/cloob-training.

    Args:
        path: A `.pkl` file that contains {"params": (image, text)}, each a mapping from module to leaf to array.

    Returns:
        Tensors in JAX's layout, by "module/leaf", and the names of the file's other entries.

    Raises:
        CheckpointError: If the file is missing or damaged, contains anything but numpy arrays, or is not a CLOOB.
    """
    path = check_file(path)
    check_kind(path)
    try:
        with path.open("rb") as file:
            check_pickle(file)
            file.seek(0)
            checkpoint = ArrayUnpickler(file, path.stat().st_size).load()
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from None
    except Exception as error:
        with path.open("rb") as file:
            is_pickle = file.read(1) == b"\x80"
        what = "the pickle is truncated or damaged; download it again" if is_pickle else "the file is not a pickle"
        raise CheckpointError(f"{path}: {what}. ({first_line(error)})") from error

    params = checkpoint.get("params") if isinstance(checkpoint, dict) else None
    trees = params if isinstance(params, (tuple, list)) and len(params) == 2 else ()
    if not trees or not all(isinstance(tree, dict) for tree in trees):
        raise CheckpointError(f'{path}: not a CLOOB checkpoint; it has no "params" of an image and a text encoder.')
    state = {}
    for module, leaves in (item for tree in trees for item in tree.items()):
        for leaf, array in leaves.items() if isinstance(leaves, dict) else [("", leaves)]:
            if not isinstance(array, PickledArray) or array.value is None or array.value.dtype.kind != "f":
                raise CheckpointError(f"{path}: {module}/{leaf} is not an array of floating-point numbers.")
            state[f"{module}/{leaf}"] = torch.from_numpy(np.ascontiguousarray(array.value))
    return state, [str(key) for key in checkpoint if key != "params"]
