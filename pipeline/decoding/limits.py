"""What ends the work on one video before its end: its time limit, or a process that is asked to stop."""

import time
from collections.abc import Callable


class Preempted(Exception):
    """The process is asked to stop: the video in hand is dropped, and neither its flow nor a failure is recorded."""


class LimitError(RuntimeError):
    """One video took more than it may; the message names the limit and says what to do."""


class Watch:
    """Looks at the clock and at `should_stop` while one video is worked on, from now.

    Parameters
    ----------
    time_limit : float or None
        Seconds that the video may take.
    should_stop : callable
    """

    def __init__(self, time_limit: float | None, should_stop: Callable[[], bool]) -> None:
        self._began = time.perf_counter()
        self._time_limit = time_limit
        self._should_stop = should_stop

    @property
    def seconds(self) -> float:
        """Seconds since the watch began."""
        return time.perf_counter() - self._began

    def check(self) -> None:
        """Raise Preempted when the process is asked to stop, LimitError when the time is over."""
        if self._should_stop():
            raise Preempted
        if self._time_limit is not None and self.seconds > self._time_limit:
            raise LimitError(
                f"took longer than the time limit of {self._time_limit:g} s; give more with --time-limit, or leave the video out"
            )
