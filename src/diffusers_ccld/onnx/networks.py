"""Runs the networks of a folder of ONNX files with onnxruntime on the CPU."""

from pathlib import Path

import numpy as np
import onnxruntime

from ..utils.errors import first_line
from .manifest import ExportError, Manifest


class Networks:
    """Runs networks by name. Checks and loads each network at its first call.

    Args:
        folder: The folder.
        manifest: Its manifest.
        num_threads: Number of threads for each network; by default, onnxruntime chooses it.
    """

    def __init__(self, folder: Path, manifest: Manifest, num_threads: int | None = None):
        self.folder, self.manifest = folder, manifest
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._num_threads = num_threads

    def __call__(self, name: str, **inputs: np.ndarray) -> np.ndarray:
        """Runs a network and returns its output.

        Raises:
            ExportError: If the folder does not have the network, or its files are missing or damaged.
        """
        if name not in self._sessions:
            self._sessions[name] = self._load(name)
        return self._sessions[name].run(None, inputs)[0]

    def _load(self, name):
        network = self.manifest.networks.get(name)
        if network is None:
            raise ExportError(f"{self.folder} was exported without a network {name!r}.")
        path = network.graph.verify(self.folder)
        network.weights.verify(self.folder)
        session = load_session(path, self._num_threads)
        found = {value.name: len(value.shape) for value in session.get_inputs()}
        if found != {name: len(shape) for name, shape in network.inputs.items()}:
            raise ExportError(f"{path} has other inputs than its manifest says. Export the pipeline again.")
        return session


def load_session(path: Path, num_threads: int | None = None) -> onnxruntime.InferenceSession:
    """Loads a graph for the CPU.

    Raises:
        ExportError: If onnxruntime cannot run it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads that spin while they wait for the next call take the cores from the threads of other networks.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no public base class
        message = f"onnxruntime {onnxruntime.__version__} cannot run {path}. ({first_line(error)})"
        raise ExportError(message) from error
