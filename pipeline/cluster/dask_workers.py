"""Extraction on the workers of a Dask cluster, which may come, go and die at any moment.

Every worker commits its own videos, so the ledger is on disk, never in the scheduler. A task is
pinned to a worker, and a worker gets no more tasks than it has slots, so it is known which videos a
dead worker was processing. Dask's own retries cannot know: `allowed-failures` blames every task
that was sent to a dead worker, and is a setting of the scheduler, which may belong to others.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import queue
import time
import uuid
from collections.abc import Callable
from typing import Any

import distributed
from distributed import Client, Future

from flowcpc.pipeline.cluster import dask_tasks
from flowcpc.pipeline.cluster.dask_tasks import LEAVING_TOPIC, decode_message
from flowcpc.pipeline.cluster.preflight import Probe, WorkerReport, judge
from flowcpc.pipeline.cluster.workers import EndedTask, Extract
from flowcpc.pipeline.extraction.extract import ExtractionSettings, StoreWriteError
from flowcpc.pipeline.extraction.ledger import VideoTask
from flowcpc.stores.base.errors import OperationError, first_line
from flowcpc.stores.base.listener import Listener
from flowcpc.stores.records.contract import WorkerState

_TICK_S = 0.5
_EXAMINE_S = 180.0  # a worker's first import may come over a slow network disk
_INSTALL = "install the same flowcpc there"
_OTHERS_S = 20.0  # how long the first worker that is ready waits for the examination of the others


@dataclasses.dataclass(frozen=True)
class ClusterJob:
    """What the workers of a cluster are to do: `extract` videos with `settings`."""

    settings: ExtractionSettings
    probe: Probe  # a test that they must pass first
    extract: Extract
    remaining: Callable[[], int]  # returns how many videos are not done
    listener: Listener


@dataclasses.dataclass
class _InFlight:
    """A video that a worker has been processing since `started` (seconds since the epoch)."""

    task: VideoTask
    future: Future[None]
    alone: bool
    started: float = dataclasses.field(default_factory=time.time)
    pairs: int = 0


@dataclasses.dataclass
class _Worker:
    """A worker process that has been examined and may be used."""

    address: str
    report: WorkerReport
    ready_since: float = dataclasses.field(default_factory=time.monotonic)
    is_leaving: bool = False
    pairs: int = 0
    videos: dict[str, _InFlight] = dataclasses.field(default_factory=dict)

    def can_start(self, alone: bool) -> bool:
        if self.is_leaving or len(self.videos) >= self.report.slots:
            return False
        return not (self.videos and alone) and not any(v.alone for v in self.videos.values())

    def state(self) -> WorkerState:
        since = min((video.started for video in self.videos.values()), default=time.time())
        rate = self.pairs / max(time.monotonic() - self.ready_since, 1e-3)
        return WorkerState(self.report.host, self.report.pid, tuple(self.videos), since, rate)


@dataclasses.dataclass(eq=False)
class DaskWorkers:
    """The workers of a scheduler, with the methods of `ThreadWorkers`. A context manager."""

    client: Client
    name: str  # of the scheduler, in messages
    job: ClusterJob
    wait_s: float | None  # how long to wait for a worker; None: for ever
    trouble: Callable[[], str]  # returns why the cluster cannot go on, "" while it can
    pairs: int = 0

    def __post_init__(self) -> None:
        self._joining: dict[str, Future[None]] = {}  # address: examination
        self._workers: dict[str, _Worker] = {}
        self._ended: list[EndedTask] = []
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._checked = self._last_usable = time.monotonic()
        self._has_started = False  # a video
        self._numbers = itertools.count()
        self._topic = f"flowcpc-{uuid.uuid4().hex}"
        self._handlers = {
            "all": self._on_cluster_event,
            LEAVING_TOPIC: lambda event: self._put(self._leave, event[1]),
            self._topic: lambda event: self._put(self._receive, *decode_message(event[1])),
        }

    def __enter__(self) -> "DaskWorkers":
        for topic, handler in self._handlers.items():
            self.client.subscribe_topic(topic, handler)
        for plugin in (dask_tasks.StopCleanly(), dask_tasks.StopOnUserSignal()):
            with contextlib.suppress(Exception):  # a worker that cannot load it is examined anyway
                self.client.register_plugin(plugin)
        for address in self.client.scheduler_info(n_workers=-1)["workers"]:
            self._put(self._join, address)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            for video in worker.videos.values():
                video.future.release()
        for topic in self._handlers:  # else the scheduler reports its own end to this client
            with contextlib.suppress(Exception):
                self.client.unsubscribe_topic(topic)

    def start(self, task: VideoTask, alone: bool) -> bool:
        """Give a video to the worker that is processing the fewest; return whether one is free.

        The first video waits for the examination of all workers, at most _OTHERS_S after the first
        one is ready: an unusable worker stops the run only before the first video.
        """
        if self._joining and not self._has_started:
            ready_since = [worker.ready_since for worker in self._workers.values()]
            if time.monotonic() < min(ready_since, default=math.inf) + _OTHERS_S:
                return False
        free = [worker for worker in self._workers.values() if worker.can_start(alone)]
        if not free:
            return False
        worker = min(free, key=lambda worker: len(worker.videos))
        self._has_started = True
        resources = None
        if worker.report.has_gpu:  # Dask adds shares up in floating point, so a little less
            resources = {"GPU": (1 - 1e-6) / worker.report.slots}
        arguments = (dask_tasks.extract_on_worker, self.job.extract, self.job.settings, task.video)
        options: dict[str, Any] = {"key": ("extract", task.video.video_id), "resources": resources}
        future = self._submit(worker.address, *arguments, **options)
        worker.videos[task.video.video_id] = _InFlight(task, future, alone)
        return True

    def wait(self) -> list[EndedTask]:
        """Return the videos that have ended, after a short wait for events if there is none.

        Raises OperationError when the workers are lost, StoreWriteError when the store cannot be
        written.
        """
        if time.monotonic() - self._checked >= _TICK_S:  # however many events there are
            self._check()
        with contextlib.suppress(queue.Empty):
            self._events.get(timeout=_TICK_S)()
            while not self._ended:
                self._events.get_nowait()()
        ended, self._ended = self._ended, []
        return ended

    def states(self) -> list[WorkerState]:
        states = [worker.state() for worker in self._workers.values()]
        return sorted(states, key=lambda state: (state.host, state.pid))

    def _put(self, handle: Callable[..., None], *arguments: Any) -> None:
        """Let the client's own thread handle an event."""
        self._events.put(functools.partial(handle, *arguments))

    def _submit(self, address: str, function: Any, *arguments: Any, **options: Any) -> Future[None]:
        """Run `function` on a worker. It sends its result to the topic; here are only errors."""
        options["key"] = (*options["key"], next(self._numbers), self._topic)  # no other run has it
        options |= {"workers": [address], "pure": False}
        future: Future[None] = self.client.submit(function, self._topic, *arguments, **options)
        future.add_done_callback(lambda future: self._put(self._fail, address, future))
        return future

    def _on_cluster_event(self, event: tuple[float, dict[str, Any]]) -> None:
        happened = event[1]
        if happened.get("action") == "add-worker":
            self._put(self._join, happened["worker"])
        elif happened.get("action") == "remove-worker":
            self._put(self._remove, happened["worker"], happened["expected"])

    def _join(self, address: str) -> None:
        if address not in self._workers and address not in self._joining:
            arguments = (dask_tasks.examine_worker, self.job.probe, self.job.settings.backend)
            self._joining[address] = self._submit(address, *arguments, key=("examine", address))
            self._last_usable = time.monotonic()

    def _fail(self, address: str, future: Future[None]) -> None:
        """Raise the error of a task, if it has one; a worker that has died is removed later."""
        if future.status != "error":
            return
        try:
            error: BaseException | None = future.exception()
        except Exception as unreadable:  # an exception that cannot be unpickled here
            error = unreadable
        if isinstance(error, StoreWriteError):
            raise error
        if error is None or isinstance(error, distributed.KilledWorker):
            return
        words = f"{type(error).__name__}: {first_line(error)}"
        if self._joining.pop(address, None) is not None:
            self._exclude(f"{_worker(address)} cannot load flowcpc ({words}); {_INSTALL}")
        elif worker := self._workers.get(address):
            name = _worker(address, worker.report)
            raise OperationError(f"{name} cannot work ({words}); fix the cause and run again")

    def _exclude(self, problem: str) -> None:
        """Leave an unusable worker out; before the first video it stops the run."""
        if not self._has_started:
            raise OperationError(problem)
        self.job.listener.announce(f"left out: {problem}")

    def _leave(self, address: str) -> None:
        self._joining.pop(address, None)
        if address in self._workers:
            self._workers[address].is_leaving = True

    def _receive(self, address: str, message: dask_tasks.Message) -> None:
        if isinstance(message, WorkerReport):
            if self._joining.pop(address, None) is None:
                return
            if problem := judge(self.job.probe, message):
                self._exclude(f"{_worker(address, message)} {problem}")
            else:
                self._workers[address] = _Worker(address, message)
        elif (worker := self._workers.get(address)) and message.video_id in worker.videos:
            if isinstance(message, dask_tasks.PairsDone):
                self._count_pairs(worker, worker.videos[message.video_id], message.pairs)
            else:
                self._end(worker, message.video_id, outcome=message)

    def _count_pairs(self, worker: _Worker, video: _InFlight, pairs: int) -> None:
        for counter in (self, worker, video):
            counter.pairs += pairs

    def _end(self, worker: _Worker, video_id: str, **how: Any) -> None:
        """Note how a video has ended."""
        video = worker.videos.pop(video_id)
        video.future.release()
        ended = EndedTask(video.task, **how)
        flows = ended.outcome.flows if ended.outcome else 0
        self._count_pairs(worker, video, flows - video.pairs)
        self._ended.append(ended)

    def _remove(self, address: str, expected: bool) -> None:
        """Remove a worker that has left or died."""
        if self._joining.pop(address, None) is not None and not expected:
            self._exclude(f"{_worker(address)} died when it was asked to load flowcpc; {_INSTALL}")
        worker = self._workers.pop(address, None)
        if worker is None:
            return
        how: dict[str, Any] = {}
        if not expected and not worker.is_leaving:
            how = {"is_suspect": True}
            if len(worker.videos) == 1:
                died_how = functools.partial(dask_tasks.cause_of_death, self.client, worker.report)
                how = {"cause_of_death": died_how}
        for video_id in list(worker.videos):
            self._end(worker, video_id, **how)

    def _check(self) -> None:
        """Raise OperationError if the cluster is lost or brings no worker that can be used."""
        self._checked = now = time.monotonic()
        trouble = self.trouble() if self.client.status == "running" else f"{self.name} is gone"
        if trouble:
            advice = "committed videos are safe, run the same command again to resume"
            raise OperationError(f"{trouble}; {advice}")
        if self._workers:
            self._last_usable = now
        limit = _EXAMINE_S if self._joining else self.wait_s
        if limit is not None and now - self._last_usable > limit:
            trouble = f"{self.name} has had no usable worker for {limit:g} s"
            raise OperationError(f"{trouble}; start workers, or read their output, and run again")


def _worker(address: str, report: WorkerReport | None = None) -> str:
    return f"the worker at {address}{f' on {report.host}' if report else ''}"
