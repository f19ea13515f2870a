"""Threads of this process that extract videos; `dask_workers.DaskWorkers` has the same methods."""

import dataclasses
import os
import platform
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

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
    """A video that no worker processes any more."""

    task: VideoTask
    outcome: Outcome | None = None  # None: its worker was asked to stop, or died
    is_suspect: bool = False  # its worker died while it was processing others too
    cause_of_death: Callable[[], str] | None = None  # returns how a worker died with this video


class ThreadWorkers:
    """One worker: this process, with as many videos at a time as the backend can use.

    Videos in flight are dropped when it is closed and when `should_stop` returns true.
    `pairs` is the number of pairs computed so far, including those of videos in flight.
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
        self._videos: dict[Future[Outcome], tuple[VideoTask, float]] = {}  # in flight, since

    def close(self) -> None:
        """Drop the videos in flight."""
        self._closed.set()
        self._pool.shutdown()

    def start(self, task: VideoTask, alone: bool) -> bool:
        """Give a video to a worker with a free slot; return whether there was one.

        One that runs `alone` shares its worker with no other; here, only this process can die.
        """
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
        """Return which videos each worker is processing, and its throughput since it was ready."""
        rate = self.pairs / max(time.monotonic() - self._opened, 1e-3)
        since = min((started for _, started in self._videos.values()), default=time.time())
        videos = tuple(task.video.video_id for task, _ in self._videos.values())
        return [WorkerState(platform.node(), os.getpid(), videos, since, rate)]
