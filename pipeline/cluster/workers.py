"""Workers that extract videos: their interface, and threads of this process; see `dask_workers`."""

import dataclasses
import os
import platform
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
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

    `outcome` is None where the video was dropped: its worker was asked to stop, or died. If it died
    while this was its only video, `cause_of_death` returns how, in words; `is_suspect` if it was
    processing others too.
    """

    task: VideoTask
    outcome: Outcome | None = None
    is_suspect: bool = False
    cause_of_death: Callable[[], str] | None = None


class Workers(Protocol):
    """Workers that each process one video or, on a GPU, several at a time.

    `pairs` is the number of pairs computed so far, including those of videos in flight.
    """

    pairs: int

    def start(self, task: VideoTask, alone: bool) -> bool:
        """Give a video to a worker with a free slot; return whether there was one.

        A video that runs `alone` needs an idle worker, and shares it with no other.
        """

    def wait(self) -> Iterable[EndedTask]:
        """Return the videos that have ended, after a short wait if there is none.

        Raises OperationError when the workers are lost, StoreWriteError when the store cannot be
        written.
        """

    def states(self) -> list[WorkerState]:
        """Return which videos each worker is processing, and its throughput since it was ready."""


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
        self._new_pairs: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._opened = time.monotonic()
        # Videos in flight, and when they were started in seconds since the epoch.
        self._videos: dict[Future[Outcome], tuple[VideoTask, float]] = {}

    def __enter__(self) -> "ThreadWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._pool.shutdown()

    def start(self, task: VideoTask, alone: bool) -> bool:
        """Give a video to a free thread, if any. Only this process can die, whatever `alone` is."""
        if len(self._videos) >= self._slots:
            return False
        arguments = (self._settings, task.video, self._new_pairs.put)
        future = self._pool.submit(self._extract, *arguments, should_stop=self._should_stop)
        self._videos[future] = task, time.time()
        return True

    def wait(self) -> Iterator[EndedTask]:
        """Yield the videos that have ended, after a short wait if there is none.

        After a stop, wait until one of the videos in flight ends: it may be stored by then.
        """
        timeout = None if self._should_stop() else _TICK_S
        for future in wait(self._videos, timeout, FIRST_COMPLETED).done:
            task, _ = self._videos.pop(future)
            try:
                yield EndedTask(task, future.result())
            except Preempted:
                yield EndedTask(task)
        while not self._new_pairs.empty():
            self.pairs += self._new_pairs.get()

    def states(self) -> list[WorkerState]:
        """Return the videos in flight, and the throughput since the beginning."""
        rate = self.pairs / max(time.monotonic() - self._opened, 1e-3)
        since = min((started for _, started in self._videos.values()), default=time.time())
        videos = tuple(task.video.video_id for task, _ in self._videos.values())
        return [WorkerState(platform.node(), os.getpid(), videos, since, rate)]
