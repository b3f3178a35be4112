"""Starts, kills and compares training runs in processes."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from diffusers_ccld.training.checkpoints import find_checkpoint
from diffusers_ccld.training.log import read_log
from diffusers_ccld.training.state import read_state
from support.scripts import run, start


def outcome(folder: Path) -> dict:
    """Everything about a run that must be reproducible: weights, averages, state, log, demos."""
    checkpoint = find_checkpoint(folder / "checkpoints", "latest")
    timings = ("images_per_second", "memory_gib")
    log = [
        {key: value for key, value in entry.items() if key not in timings}
        for entry in read_log(folder / "metrics.jsonl")
    ]
    return {
        "log": log,
        "progress": read_state(checkpoint),
        "demos": {path.name: path.read_bytes() for path in (folder / "demos").iterdir()},
        "weights": (folder / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes(),
        "trained": (checkpoint / "model.safetensors").read_bytes(),
        "average": (checkpoint / "average-0.safetensors").read_bytes(),
    }


def assert_same(a: Path, b: Path) -> None:
    first, second = outcome(a), outcome(b)
    for name in first:
        assert first[name] == second[name], name


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            output = process.communicate(timeout=5)[0] if process.poll() is not None else "still running"
            pytest.fail(f"the process did not come so far: {output}")
        time.sleep(0.005)


def drain(process: subprocess.Popen) -> str:
    return process.communicate(timeout=120)[0]


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    drain(process)


def kill_and_resume(script: str, arguments: list[str], output: Path, kills: int, seed: int) -> None:
    """Kills a run at random moments, mostly while it saves, and then lets it end."""
    chance = random.Random(seed)
    for _ in range(kills):
        checkpoint = find_checkpoint(output / "checkpoints", "latest")
        process = start(script, *arguments, "--resume", "latest")
        wait_for(lambda: find_checkpoint(output / "checkpoints", "latest") != checkpoint, process)  # noqa: B023
        time.sleep(chance.uniform(0, 0.3))
        kill(process)
    run(script, *arguments, "--resume", "latest")
