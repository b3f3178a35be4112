"""Exclusive use of a folder or file by one process. The operating system frees it however the process ends."""

import errno
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

PATIENCE = 0.2  # seconds for a process that is about to free the folder
ORPHANS_END_WITHIN = 15.0  # seconds in which the workers of a killed process notice that it is gone
LONGEST_COMMAND = 160

# Errors of file systems without locks, such as some that are mounted over a network.
UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class FolderInUseError(ValueError):
    """Another process writes the folder. The message names it."""


def lock_path(folder: Path, part: str = "", beside: bool = False) -> Path:
    """Path of the file that is locked for a folder.

    Args:
        folder: The folder.
        part: Name of a part of its content that has a lock of its own.
        beside: True for a lock beside the folder, as folders need that are replaced as a whole; False for one in it.
    """
    folder = folder.absolute()
    if beside:
        return folder.with_name(f".{folder.name}.lock")
    return folder / (f".{part}.lock" if part else ".lock")


@contextmanager
def exclusive(folder: Path, part: str = "", beside: bool = False, wait: bool = False) -> Iterator[None]:
    """Context in which no other process that asks for the same can write a folder. It may be entered again inside.

    The lock and a description of this process are files, which are deleted at the end. A folder that did not exist and
    is still empty at the end is deleted, too.

    Args:
        folder: The folder, which is created unless the lock lies beside it.
        part: As for `lock_path`.
        beside: As for `lock_path`.
        wait: True to say who has the folder and wait; False to raise.

    Raises:
        FolderInUseError: If another process has it.
        ValueError: If the path is a file.
    """
    path = lock_path(folder, part, beside)
    if path.parent.exists() and not path.parent.is_dir():
        raise ValueError(f"{path.parent} is not a folder.")
    is_new = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, is_singleton=True)
    if not _acquire_if_supported(lock, folder, path, wait):
        yield
        return
    try:
        if lock.lock_counter == 1:
            _owner_path(path).write_text(json.dumps(_this_process(), indent=2) + "\n", encoding="utf-8")
        yield
    finally:
        if lock.lock_counter == 1:
            with suppress(OSError):  # Windows does not delete open files
                _owner_path(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)  # while it is locked: another process that waits for it starts anew
        lock.release()
        if is_new:
            with suppress(OSError):  # it is not empty
                path.parent.rmdir()


def refuse_if_in_use(path: Path) -> None:
    """Raises `FolderInUseError` if another process holds a lock of `lock_path`; writes nothing."""
    if path.is_file():
        lock = FileLock(path, is_singleton=True)
        if _acquire_if_supported(lock, path.parent, path, wait=False):
            lock.release()


def _acquire_if_supported(lock: FileLock, folder: Path, path: Path, wait: bool) -> bool:
    """Acquires a lock, or warns and returns False if the file system has no locks."""
    try:
        _acquire(lock, folder, path, wait)
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in UNSUPPORTED:
            raise
        print(f"warning: {folder} cannot be locked; let no other process write it. ({error})", file=sys.stderr)
        return False
    return True


def _acquire(lock: FileLock, folder: Path, path: Path, wait: bool) -> None:
    try:
        lock.acquire(timeout=PATIENCE, poll_interval=PATIENCE / 4)
        return
    except Timeout:
        owner = _read_owner(path)
    if _has_ended(owner):  # its workers have inherited the lock, and end soon
        with suppress(Timeout):
            lock.acquire(timeout=ORPHANS_END_WITHIN)
            return
    if not wait:
        raise FolderInUseError(
            f"{folder} is in use: {_describe(owner)}. Wait until that process has ended, or give another place."
        )
    print(f"waiting for {folder}: {_describe(owner)}", file=sys.stderr, flush=True)
    lock.acquire()


def _owner_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _this_process() -> dict[str, str | int]:
    program = Path(sys.argv[0])
    command = shlex.join([program.parent.name if program.name == "__main__.py" else program.name, *sys.argv[1:]])
    if len(command) > LONGEST_COMMAND:
        command = f"{command[:LONGEST_COMMAND]}…"
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "command": command, "since": since}


def _read_owner(path: Path) -> dict[str, str | int]:
    """The process that wrote its description last; empty if there is none, for example in the moment before."""
    try:
        owner = json.loads(_owner_path(path).read_text(encoding="utf-8"))
        return owner if {"pid", "host", "command", "since"} <= owner.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}


def _describe(owner: dict[str, str | int]) -> str:
    if not owner:
        return "another process writes it"
    return "process {pid} on {host} has been writing it since {since} ({command})".format(**owner)


def _has_ended(owner: dict[str, str | int]) -> bool:
    """True if the owner was a process of this machine that does not exist any more."""
    if not owner or owner["host"] != socket.gethostname() or os.name != "posix":
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
