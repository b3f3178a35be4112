"""State of running calls that callbacks read and change, one for each thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Run:
    """One run of the sampling loop.

    Attributes:
        guidance_scale: The guidance scale of its next step.
        num_timesteps: Number of its network evaluations.
        interrupt: True once a callback or another thread has asked it to end.
    """

    guidance_scale: float = 1.0
    num_timesteps: int = 0
    interrupt: bool = False


@dataclass
class Runs:
    """The runs of one pipeline.

    Attributes:
        active: Those in progress, by the thread that they run in.
        ended: The last one that ended, by the thread that it ran in.
        last: The last one that ended in any thread.
    """

    active: dict[int, Run] = field(default_factory=dict)
    ended: dict[int, Run] = field(default_factory=dict)
    last: Run | None = None

    @property
    def own(self) -> Run:
        """This thread's run, or else its last one, or else the last one of any thread.

        Raises:
            AttributeError: If there has not been a run.
        """
        thread = threading.get_ident()
        run = self.active.get(thread) or self.ended.get(thread, self.last)
        if run is None:
            raise AttributeError("The pipeline has not been called yet.")
        return run

    def set(self, name: str, value: float | bool) -> None:
        """Changes this thread's run. In a thread without a run, changes every run in progress."""
        own = self.active.get(threading.get_ident())
        for run in [own] if own is not None else list(self.active.values()):
            setattr(run, name, value)

    @contextmanager
    def begin(self, guidance_scale: float, num_timesteps: int, run: Run | None = None) -> Iterator[Run]:
        """Context of a new run in this thread, or of the next part of one. A callback may begin another inside it."""
        thread, run = threading.get_ident(), Run() if run is None else run
        run.guidance_scale, run.num_timesteps = guidance_scale, num_timesteps
        outer = self.active.get(thread)
        self.active[thread] = run
        try:
            yield run
        finally:
            self.last = self.ended[thread] = run
            if outer is None:
                del self.active[thread]
            else:
                self.active[thread] = outer
