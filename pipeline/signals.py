"""Signals that ask for a stop, and how the processes that a run starts are kept from hearing them too early."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
leaving = threading.Event()  # in a worker process: it was asked to go


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold STOPS back from this thread; from the threads that are begun in it, and from all that these start, until they `let_through`.

    A terminal, or a queue, signals every process of a command, those too that are still loading Python and would answer with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        resource_tracker.ensure_running()  # when it begins, it lets these through again; it has begun now
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_on_signals(close: Callable[[], None], *, alone: bool) -> None:
    """Hear in this worker process what was held back, and all that comes: `close` it at SIGUSR1 and, unless it is `alone`, at SIGTERM.

    Ctrl-C reaches every process of a terminal; the one that started this one decides what it means. A process that is `alone` has taken
    SIGTERM and Ctrl-C itself.
    """

    def hear(*_: object) -> None:
        leave()
        with contextlib.suppress(RuntimeError):  # it has closed already
            close()

    signal.signal(signal.SIGUSR1, hear)
    if not alone:
        signal.signal(signal.SIGTERM, hear)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def leave() -> None:
    """Drop the video in hand, in this worker process; that its connections end is no error from now on."""
    leaving.set()
    for name in ("asyncio", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
