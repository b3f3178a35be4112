"""Runs the repository's scripts, in new processes or, for speed, in this one."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import torch
from accelerate.state import AcceleratorState, GradientState

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "training" / "configs" / "accelerate"


def command(script: str, *arguments: object, launch: str | None = None) -> list[str]:
    """The command line of a script; `launch` names a configuration of accelerate."""
    program = [sys.executable, str(ROOT / script), *map(str, arguments)]
    if launch is not None:
        launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
        program = [*launcher, "--config_file", str(CONFIGS / f"{launch}.yaml"), *program[1:]]
    return program


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", **variables}


def start(script: str, *arguments: object, launch: str | None = None, **variables: str) -> subprocess.Popen:
    """Starts a script in a new process group, so that all its processes can be killed together."""
    return subprocess.Popen(
        command(script, *arguments, launch=launch),
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(script: str, *arguments: object, launch: str | None = None, **variables: str) -> str:
    """Runs a script in a new process; returns its output."""
    result = subprocess.run(
        command(script, *arguments, launch=launch), env=environment(**variables), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def run_here(script: str, *arguments: object) -> int:
    """Runs a script in this process, on one core like `environment`; returns its exit status."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    argv = [script, *map(str, arguments)]
    with patch.object(sys, "argv", argv):
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as exit:
            return exit.code
        finally:
            torch.set_num_threads(threads)
    return 0
