"""Waits that end: on a machine with other work, a wait may be long, but it fails with a sentence."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import httpx

PATIENCE = 300.0  # seconds; other work may stop this machine for minutes

get, post, stream = (partial(function, timeout=PATIENCE) for function in (httpx.get, httpx.post, httpx.stream))


def wait_until(holds: Callable[[], object], what: str, pause: Callable[[float], object] = time.sleep) -> None:
    """Waits until a condition holds.

    Args:
        holds: The condition.
        what: A sentence of what is awaited, for the failure.
        pause: Waits for a number of seconds; that of a browser handles its events.
    """
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"Not within {PATIENCE:g} s: {what}"
        pause(0.02)


def seconds_in_which_this_process_ran(until: Callable[[], object], what: str) -> float:
    """Waits until a condition holds, and returns the seconds without those in which the machine was stopped or busy.

    Each hundredth of a second that this process sleeps counts as such, however long the machine makes of it.
    """
    ticks: Iterator[int] = iter(range(int(100 * PATIENCE)))
    while not until():
        assert next(ticks, None) is not None, f"Not within {PATIENCE:g} s: {what}"
        time.sleep(0.01)
    return 0.01 * (next(ticks, 0))
