"""Workers that extract videos: their interface, and threads of this process; see `dask_workers`."""

import contextlib
import dataclasses
import os
import platform
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from flowcpc.pipeline.decoding.limits import Preempted
from flowcpc.pipeline.extraction.extract import ExtractionSettings, Outcome
from flowcpc.pipeline.extraction.ledger import VideoTask
from flowcpc.pipeline.tvl1.batching import videos_at_a_time
from flowcpc.pipeline.tvl1.solver import available_threads
from flowcpc.stores.records.contract import WorkerState

Extract = Callable[..., Outcome]  # with the arguments of `extract_video`
_TICK_S = 0.2


@dataclasses.dataclass(frozen=True)
class EndedTask:
    """A video that no worker processes any more.

    Attributes
    ----------
    task : VideoTask
    outcome : Outcome, optional
        None where the video was dropped: its worker was asked to stop, or died.
    is_suspect : bool
        The worker died while it was processing this video and others.
    cause_of_death : callable, optional
        The worker died while this was its only video; returns how it died, in words.
    """

    task: VideoTask
    outcome: Outcome | None = None
    is_suspect: bool = False
    cause_of_death: Callable[[], str] | None = None


class Workers(Protocol):
    """Workers that each process one video or, on a GPU, several at a time.

    Attributes
    ----------
    pairs : int
        Pairs computed so far, including those of videos in flight.
    """

    pairs: int

    def can_start(self, alone: bool) -> bool:
        """Return whether a worker has a free slot, or, for a video that runs `alone`, is idle."""

    def start(self, task: VideoTask, alone: bool) -> None:
        """Give a video to a worker after `can_start`; an `alone` video shares it with no other."""

    def wait(self) -> Iterable[EndedTask]:
        """Return the videos that have ended, after a short wait if there is none.

        Raises OperationError when the workers are lost, StoreWriteError when the store cannot be
        written.
        """

    def states(self) -> list[WorkerState]:
        """Return which videos each worker is processing, and its throughput."""


class ThreadWorkers:
    """One worker: this process, with as many videos at a time as the backend can use.

    A context manager; videos in flight are dropped at its end and when `should_stop` returns true.
    """

    def __init__(
        self, settings: ExtractionSettings, extract: Extract, should_stop: Callable[[], bool]
    ) -> None:
        self.pairs = 0
        cores = available_threads()
        self._slots = videos_at_a_time(settings.backend, cores)
        self._settings = dataclasses.replace(settings, threads=cores // self._slots)
        self._extract = extract
        self._pool = ThreadPoolExecutor(self._slots, "extract")
        self._closed = threading.Event()
        self._should_stop = lambda: should_stop() or self._closed.is_set()
        self._ended: queue.SimpleQueue[tuple[VideoTask, Future[Outcome]]] = queue.SimpleQueue()
        self._new_pairs: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._opened = time.monotonic()
        self._started: dict[str, float] = {}  # videos in flight: seconds since the epoch

    def __enter__(self) -> "ThreadWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._pool.shutdown()

    def can_start(self, alone: bool) -> bool:
        """Return whether a slot is free. Only this process can die, so `alone` has no effect."""
        return len(self._started) < self._slots

    def start(self, task: VideoTask, alone: bool) -> None:
        """Give a video to a thread."""
        self._started[task.video.video_id] = time.time()
        future = self._pool.submit(
            self._extract,
            self._settings,
            task.video,
            self._new_pairs.put,
            should_stop=self._should_stop,
        )
        future.add_done_callback(lambda future: self._ended.put((task, future)))

    def wait(self) -> Iterator[EndedTask]:
        """Yield a video that has ended, after a short wait if there is none.

        After a stop, wait until one of the videos in flight ends: it may be stored by then.
        """
        timeout = None if self._started and self._should_stop() else _TICK_S
        with contextlib.suppress(queue.Empty):
            task, future = self._ended.get(timeout=timeout)
            del self._started[task.video.video_id]
            try:
                yield EndedTask(task, future.result())
            except Preempted:
                yield EndedTask(task)
        while not self._new_pairs.empty():
            self.pairs += self._new_pairs.get()

    def states(self) -> list[WorkerState]:
        """Return the videos in flight, and the throughput since the beginning."""
        rate = self.pairs / max(time.monotonic() - self._opened, 1e-3)
        since = min(self._started.values(), default=time.time())
        return [WorkerState(platform.node(), os.getpid(), tuple(self._started), since, rate)]
