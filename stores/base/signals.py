"""Signals that ask for a stop, and how the processes that are started meanwhile are kept from hearing them too early."""

import contextlib
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold STOPS back from this thread; from the threads that are begun in it, and from all processes that these start, which inherit the mask.

    A terminal, or a queue, signals every process of a command, those too that are still loading Python and would answer with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        resource_tracker.ensure_running()  # when it begins, it lets these through again; it has begun now
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
