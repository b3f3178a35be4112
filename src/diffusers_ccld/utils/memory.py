"""Memory of this process, on every platform."""

import sys

import psutil

try:
    import resource
except ImportError:  # Windows
    resource = None


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    if resource is None:
        return psutil.Process().memory_info().peak_wset
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux and the BSDs kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
