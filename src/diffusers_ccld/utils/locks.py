"""Locks for folders that one process may write at a time. The operating system frees them when the process ends."""

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

PATIENCE = 0.2  # seconds to wait for a process that is about to free the folder
ORPHANS_END_WITHIN = 15.0  # seconds after which the workers of a killed process have exited, too
LONGEST_COMMAND = 160

# Errors of file systems that do not support locks, such as some network file systems.
UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class FolderInUseError(ValueError):
    """Another process has locked the folder. The message names the process."""


def lock_path(folder: Path, part: str = "", beside: bool = False) -> Path:
    """Returns the path of the lock file of a folder.

    Args:
        folder: The folder.
        part: Name of a part of the folder that has its own lock.
        beside: True for a lock file beside the folder, for folders that are replaced as a whole; False for one in it.
    """
    folder = folder.absolute()
    if beside:
        return folder.with_name(f".{folder.name}.lock")
    return folder / (f".{part}.lock" if part else ".lock")


@contextmanager
def exclusive(folder: Path, part: str = "", beside: bool = False, wait: bool = False) -> Iterator[None]:
    """Context in which this process has the lock of a folder. It can be nested.

    The lock file and a file that describes this process are deleted at the end. So is a folder that this function
    created and that is still empty.

    Args:
        folder: The folder. It is created unless the lock file is beside it.
        part: As for `lock_path`.
        beside: As for `lock_path`.
        wait: True to print which process has the lock and to wait for it; False to raise.

    Raises:
        FolderInUseError: If another process has the lock, and `wait` is False.
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
                path.unlink(missing_ok=True)  # while it is locked, so that a waiting process creates a new one
        lock.release()
        if is_new:
            with suppress(OSError):  # it is not empty
                path.parent.rmdir()


def refuse_if_in_use(path: Path) -> None:
    """Raises `FolderInUseError` if another process has locked the file of `lock_path`. Does not write anything."""
    if path.is_file():
        lock = FileLock(path, is_singleton=True)
        if _acquire_if_supported(lock, path.parent, path, wait=False):
            lock.release()


def _acquire_if_supported(lock: FileLock, folder: Path, path: Path, wait: bool) -> bool:
    """Acquires a lock. Warns and returns False if the file system does not support locks."""
    try:
        _acquire(lock, folder, path, wait)
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in UNSUPPORTED:
            raise
        print(f"warning: {folder} cannot be locked; do not let another process write it. ({error})", file=sys.stderr)
        return False
    return True


def _acquire(lock: FileLock, folder: Path, path: Path, wait: bool) -> None:
    try:
        lock.acquire(timeout=PATIENCE, poll_interval=PATIENCE / 4)
        return
    except Timeout:
        owner = _read_owner(path)
    if _has_ended(owner):  # its workers have inherited the lock, and will exit soon
        with suppress(Timeout):
            lock.acquire(timeout=ORPHANS_END_WITHIN)
            return
    if not wait:
        raise FolderInUseError(
            f"{folder} is in use: {_describe(owner)}. Wait until that process has ended, or give another path."
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
    """Reads the description of the process that has the lock; empty if it is missing, unfinished or damaged."""
    try:
        owner = json.loads(_owner_path(path).read_text(encoding="utf-8"))
        return owner if {"pid", "host", "command", "since"} <= owner.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}


def _describe(owner: dict[str, str | int]) -> str:
    if not owner:
        return "another process is writing it"
    return "process {pid} on {host} has been writing it since {since} ({command})".format(**owner)


def _has_ended(owner: dict[str, str | int]) -> bool:
    """True if the owner was a process of this machine that no longer exists."""
    if not owner or owner["host"] != socket.gethostname() or os.name != "posix":
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
