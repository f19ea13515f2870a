"""What ends the work on one video early: its time limit, or a request to stop."""

import time
from collections.abc import Callable


class Preempted(Exception):
    """The process was asked to stop; nothing about the current video is recorded."""


class LimitError(RuntimeError):
    """One video needs more than its limit; the message names the limit and says what to do."""


class Watch:
    """Checks the time limit of a video, in seconds from now, and `should_stop`."""

    def __init__(self, time_limit: float | None, should_stop: Callable[[], bool]) -> None:
        self._time_limit, self._should_stop = time_limit, should_stop
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the watch began."""
        return time.perf_counter() - self._began

    def check(self) -> None:
        """Raise Preempted when asked to stop, LimitError when the time is over."""
        if self._should_stop():
            raise Preempted
        if self._time_limit is not None and self.seconds > self._time_limit:
            problem = f"took longer than the time limit of {self._time_limit:g} s"
            raise LimitError(f"{problem}; give more with --time-limit, or leave the video out")
