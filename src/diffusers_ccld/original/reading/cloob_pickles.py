"""Reads CLOOB's pickles without running anything that is in them."""

import math
import pickle
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from ...utils.errors import first_line
from ..errors import CheckpointError, HostileFileError, check_file
from .pickle_walk import check_pickle


class ArrayDtype:
    """Stands in for `numpy.dtype` in a pickle: plain numbers only, as other kinds can be made to forge pointers."""

    def __init__(self, code: str, *_):
        if not isinstance(code, str) or not re.fullmatch(r"[<>=|]?[fiub][0-9]{1,2}", code):
            raise CheckpointError(f"the file holds an array of {str(code)[:20]!r}, which is not a plain numeric type.")
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
            """Decodes an array's bytes in the oldest pickle formats, which have no type for bytes."""
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
        CheckpointError: If the file is missing or damaged, holds anything but numpy arrays, or is not a CLOOB.
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
            f"{path}: the file is not a pickle, or a truncated one; get it again. ({first_line(error)})"
        ) from error

    params = checkpoint.get("params") if isinstance(checkpoint, dict) else None
    trees = params if isinstance(params, (tuple, list)) and len(params) == 2 else ()
    if not trees or not all(isinstance(tree, dict) for tree in trees):
        raise CheckpointError(f'{path}: no CLOOB checkpoint; it has no "params" of an image and a text encoder.')
    state = {}
    for module, leaves in (item for tree in trees for item in tree.items()):
        for leaf, array in leaves.items() if isinstance(leaves, dict) else [("", leaves)]:
            if not isinstance(array, PickledArray) or array.value is None or array.value.dtype.kind != "f":
                raise CheckpointError(f"{path}: {module}/{leaf} is not an array of floating-point numbers.")
            state[f"{module}/{leaf}"] = torch.from_numpy(np.ascontiguousarray(array.value))
    return state, [str(key) for key in checkpoint if key != "params"]
