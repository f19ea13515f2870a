"""Signals that ask for a stop, and how to keep them from processes that are being started."""

import contextlib
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Block STOPS in this thread and in all threads and processes that it starts meanwhile.

    A terminal or a queue signals every process of a command, even those that are still loading
    Python, which would end with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        resource_tracker.ensure_running()  # its start unblocks these signals
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
