"""How a worker process hears the signals that ask for a stop; stores/base/signals.py holds them back until it does."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable

from flowcpc.stores.base.signals import STOPS

leaving = threading.Event()  # in a worker process: it was asked to go


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
