"""The `ccld` command.

The modules of commands declare options and check arguments. They import torch, and everything that does, only when a
command runs: `--help` and errors in arguments must be immediate.
"""

from .main import main, run_reporting_errors

__all__ = ["main", "run_reporting_errors"]
