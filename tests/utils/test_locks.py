"""Locks of folders, held by processes that live, die and wait."""

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from diffusers_ccld.cli import main
from diffusers_ccld.data.latent_cache import writing
from diffusers_ccld.utils.locks import FolderInUseError, exclusive, lock_path, refuse_if_in_use
from support.scripts import run_here

IN_USE = r"run is in use: process {} on \S+ has been writing it since 20\S+ \S+ \(.+\)"
FORK = multiprocessing.get_context("fork")


def hold(folder: Path, options: dict, is_held, seconds: float) -> None:
    with exclusive(folder, **options):
        is_held.set()
        time.sleep(seconds)


def hold_with_a_child(folder: Path, options: dict, is_held, seconds: float) -> None:
    """Holds a lock and has a child that outlives it by a second, as a reader of images outlives a killed run."""
    with exclusive(folder, **options):
        if os.fork() == 0:
            time.sleep(1)
            os._exit(0)
        is_held.set()
        time.sleep(seconds)


@pytest.fixture
def held_elsewhere():
    """Starts a process that holds a lock, and returns it once it does."""
    processes = []

    def start(folder, target=hold, seconds=60.0, **options):
        for _ in range(10):  # a process forked from one with threads may hang before it begins
            is_held = FORK.Event()
            process = FORK.Process(target=target, args=(folder, options, is_held, seconds))
            process.start()
            processes.append(process)
            if is_held.wait(10):
                return process
            process.kill()
            process.join()
        raise AssertionError("no process holds the lock")

    yield start
    for process in processes:
        process.kill()
        process.join()


@pytest.mark.parametrize("options", [{}, {"part": "shard-0-of-2"}, {"beside": True}])
def test_a_folder_belongs_to_one_process_which_the_refusal_names(held_elsewhere, tmp_path, options):
    folder = tmp_path / "run"
    owner = held_elsewhere(folder, **options)
    with pytest.raises(FolderInUseError, match=IN_USE.format(owner.pid)), exclusive(folder, **options):
        pass
    with pytest.raises(FolderInUseError, match=f"process {owner.pid} "):
        refuse_if_in_use(lock_path(folder, **options))
    with exclusive(tmp_path / "other", **options):  # is free
        pass


@pytest.mark.parametrize("target", [hold, hold_with_a_child])
def test_a_killed_process_holds_nothing(held_elsewhere, tmp_path, target):
    owner = held_elsewhere(tmp_path, target)
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    refuse_if_in_use(lock_path(tmp_path))
    with exclusive(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_process_may_wait_and_says_for_whom(held_elsewhere, tmp_path, capsys):
    owner = held_elsewhere(tmp_path / "file.ckpt", seconds=1.0, beside=True)
    with exclusive(tmp_path / "file.ckpt", beside=True, wait=True):
        assert not owner.is_alive() or owner.join() is None
    assert f"file.ckpt: process {owner.pid} on " in capsys.readouterr().err


def test_nothing_is_left_behind(tmp_path):
    with exclusive(tmp_path / "a" / "new"), exclusive(tmp_path / "a" / "new"), exclusive(tmp_path / "b", beside=True):
        assert lock_path(tmp_path / "a" / "new").is_file() and lock_path(tmp_path / "b", beside=True).is_file()
        refuse_if_in_use(lock_path(tmp_path / "a" / "new"))  # by this process it may be used
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and not list((tmp_path / "a").iterdir())
    with exclusive(tmp_path / "full"):
        (tmp_path / "full" / "file").touch()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is not a folder"), exclusive(tmp_path / "file"):
        pass


COMMANDS = {
    "training/finetune.py": ({}, "--model nowhere --output-dir"),
    "training/distill.py": ({}, "--model nowhere --teacher nowhere --output-dir"),
    "training/train_autoencoder.py": ({}, "--model nowhere --output-dir"),
    "training/train_cloob.py": ({}, "--model nowhere --dataset nowhere --output-dir"),
    "training/train_judge.py": ({}, "--dataset {here} --output-dir"),
    "training/fit_text.py": ({"beside": True}, "--model nowhere --dataset nowhere --output"),
    "training/precompute.py": ({"part": "shard-0-of-1"}, "--model nowhere --output"),
    "training/make_paintings.py": ({"beside": True}, "--output"),
    "convert": ({}, "--preset wikiart-mini --output"),
    "compare": ({}, "nowhere --prompts {here}/prompts.txt --output"),
    "interpolate": ({"beside": True}, "rose moon --steps 1 --output"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_everything_that_writes_a_folder_over_time_has_it_alone(held_elsewhere, tmp_path, capsys, command):
    options, arguments = COMMANDS[command]
    (tmp_path / "prompts.txt").write_text("a rose")
    owner = held_elsewhere(tmp_path / "output", **options)
    arguments = [*arguments.format(here=tmp_path).split(), str(tmp_path / "output")]
    status = run_here(command, *arguments) if command.endswith(".py") else main([command, *arguments])
    assert status == 2
    assert f"output is in use: process {owner.pid} on " in capsys.readouterr().err
    assert not [path for path in (tmp_path / "output").glob("*") if "lock" not in path.name]


def test_shares_of_one_division_of_a_cache_are_written_at_once_and_others_are_not(held_elsewhere, tmp_path):
    owner = held_elsewhere(tmp_path, part="shard-0-of-2")
    with writing(tmp_path, 1, 2):
        pass
    for share in ((0, 2), (0, 1), (2, 3)):
        with pytest.raises(FolderInUseError, match=f"process {owner.pid} "), writing(tmp_path, *share):
            pass


def test_a_file_system_without_locks_gets_a_warning(tmp_path, monkeypatch, capsys):
    def acquire(*args, **options):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("diffusers_ccld.utils.locks.FileLock.acquire", acquire)
    with exclusive(tmp_path / "run"):
        (tmp_path / "run" / "file").touch()
    assert "run cannot be locked; do not let another process write it" in capsys.readouterr().err
