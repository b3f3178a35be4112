"""Runs the converter: the script in a process of its own, or the command in this one."""

import subprocess
import sys

from diffusers_ccld.cli import main

from .scripts import ROOT

SCRIPT = ROOT / "conversion" / "convert_ckpt.py"


def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the script in a process of its own."""
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


def convert(*arguments: object) -> int:
    """Runs the command in this process, which is faster; returns the exit status."""
    return main(["convert", *map(str, arguments)])
