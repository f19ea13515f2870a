"""Extraction on the workers of a Dask cluster, which may come, go and die at any moment.

Every worker commits its own videos, so the ledger is on disk, never in the scheduler. A task is
pinned to a worker, and a worker gets no more tasks than it has slots, so it is known which videos a
dead worker was processing. Dask's own count of failures (`allowed-failures`) blames every task that
was sent to a worker, and is a setting of the scheduler, which may belong to somebody else.
"""

import contextlib
import dataclasses
import functools
import queue
import time
import uuid
from collections.abc import Callable
from typing import Any

import distributed
from distributed import Client, Future

from flowcpc.pipeline.cluster.dask_nanny import cause_of_death
from flowcpc.pipeline.cluster.dask_tasks import (
    LEAVING_TOPIC,
    Message,
    PairsDone,
    StopCleanly,
    StopOnUserSignal,
    decode_message,
    examine_worker,
    extract_on_worker,
)
from flowcpc.pipeline.cluster.preflight import Probe, WorkerReport, judge
from flowcpc.pipeline.cluster.workers import EndedTask, Extract
from flowcpc.pipeline.extraction.extract import ExtractionSettings, Outcome, StoreWriteError
from flowcpc.pipeline.extraction.ledger import VideoTask
from flowcpc.stores.base.errors import OperationError, first_line
from flowcpc.stores.base.listener import Listener
from flowcpc.stores.records.contract import WorkerState

_TICK_S = 0.5
_EXAMINE_S = 180.0  # a worker's first import may come over a slow network disk


@dataclasses.dataclass(frozen=True)
class ClusterJob:
    """What the workers of a cluster are to do: `extract` videos with `settings`.

    They must pass the test with `probe` first. `remaining` returns how many videos are not done.
    """

    settings: ExtractionSettings
    probe: Probe
    extract: Extract
    remaining: Callable[[], int]
    listener: Listener


@dataclasses.dataclass
class _InFlight:
    """A video that a worker has been processing since `started` (seconds since the epoch)."""

    task: VideoTask
    future: Future[None]
    alone: bool
    started: float = dataclasses.field(default_factory=time.time)
    pairs: int = 0
    outcome: Outcome | None = None


@dataclasses.dataclass
class _Worker:
    """A worker process; `report` is None until it has been examined and may be used."""

    address: str
    examination: Future[None]
    report: WorkerReport | None = None
    ready_since: float = 0.0
    is_leaving: bool = False
    pairs: int = 0
    videos: dict[str, _InFlight] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"the worker at {self.address}{f' on {self.report.host}' if self.report else ''}"

    def can_start(self, alone: bool) -> bool:
        if self.report is None or self.is_leaving or len(self.videos) >= self.report.slots:
            return False
        return not (self.videos and alone) and not any(v.alone for v in self.videos.values())

    def state(self, report: WorkerReport) -> WorkerState:
        since = min((video.started for video in self.videos.values()), default=time.time())
        rate = self.pairs / max(time.monotonic() - self.ready_since, 1e-3)
        return WorkerState(report.host, report.pid, tuple(self.videos), since, rate)


class DaskWorkers:
    """The workers of the scheduler `name` (as messages call it) that `client` is connected to.

    A context manager. `wait_s` is how long to wait for a worker in seconds, None for ever;
    `trouble` returns why the cluster cannot go on, "" while it can.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        job: ClusterJob,
        wait_s: float | None,
        trouble: Callable[[], str],
    ) -> None:
        self.pairs = 0
        self._client = client
        self._name = name
        self._job = job
        self._wait_s = wait_s
        self._trouble = trouble
        self._workers: dict[str, _Worker] = {}
        self._ended: list[EndedTask] = []
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._opened = self._checked = self._last_usable = time.monotonic()
        self._tasks_started = 0
        self._topic = f"flowcpc-{uuid.uuid4().hex}"
        self._handlers = {
            "all": self._on_cluster_event,
            LEAVING_TOPIC: lambda event: self._put(self._leave, event[1]),
            self._topic: lambda event: self._put(self._receive, *decode_message(event[1])),
        }

    def __enter__(self) -> "DaskWorkers":
        for topic, handler in self._handlers.items():
            self._client.subscribe_topic(topic, handler)
        for plugin in (StopCleanly(), StopOnUserSignal()):
            with contextlib.suppress(Exception):  # a worker that cannot load it is examined anyway
                self._client.register_plugin(plugin)
        for address in self._client.scheduler_info(n_workers=-1)["workers"]:
            self._put(self._join, address)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            for video in worker.videos.values():
                video.future.release()
        for topic in self._handlers:  # else the scheduler reports its own end to this client
            with contextlib.suppress(Exception):
                self._client.unsubscribe_topic(topic)

    def can_start(self, alone: bool) -> bool:
        """Return whether a worker can take a video.

        The first video waits until all workers have been examined, for some time: one that cannot
        be used stops the run only before the first video.
        """
        workers = self._workers.values()
        may_wait = not self._tasks_started and time.monotonic() - self._opened < _EXAMINE_S
        if may_wait and not all(worker.report for worker in workers):
            return False
        return any(worker.can_start(alone) for worker in workers)

    def start(self, task: VideoTask, alone: bool) -> None:
        """Give a video to the worker that is processing the fewest."""
        worker = min(
            (worker for worker in self._workers.values() if worker.can_start(alone)),
            key=lambda worker: len(worker.videos),
        )
        assert worker.report is not None
        self._tasks_started += 1
        resources = None
        if worker.report.has_gpu:  # Dask adds shares up in floating point, so a little less
            resources = {"GPU": (1 - 1e-6) / worker.report.slots}
        key = ("extract", task.video.video_id, self._tasks_started)
        arguments = (self._job.extract, self._job.settings, task.video)
        on_end = functools.partial(self._end_video, worker, task.video.video_id)
        future = self._submit(worker.address, key, extract_on_worker, arguments, on_end, resources)
        worker.videos[task.video.video_id] = _InFlight(task, future, alone)

    def wait(self) -> list[EndedTask]:
        """Return the videos that have ended, after a short wait for events if there is none."""
        if time.monotonic() - self._checked >= _TICK_S:  # however many events there are
            self._check()
        with contextlib.suppress(queue.Empty):
            self._events.get(timeout=_TICK_S)()
            while not self._ended:
                self._events.get_nowait()()
        ended, self._ended = self._ended, []
        return ended

    def states(self) -> list[WorkerState]:
        """Return which videos each worker is processing, and its throughput since it was ready."""
        states = [w.state(w.report) for w in self._workers.values() if w.report is not None]
        return sorted(states, key=lambda state: (state.host, state.pid))

    def _put(self, handle: Callable[..., None], *arguments: Any) -> None:
        """Let the client's own thread handle an event."""
        self._events.put(functools.partial(handle, *arguments))

    def _submit(
        self,
        address: str,
        key: tuple[Any, ...],
        function: Callable[..., None],
        arguments: tuple[Any, ...],
        on_end: Callable[[BaseException | None], None],
        resources: dict[str, float] | None = None,
    ) -> Future[None]:
        def ended(future: Future[None]) -> None:
            error: BaseException | None = None
            try:
                error = future.exception() if future.status == "error" else None
            except Exception as unreadable:  # an exception that cannot be unpickled here
                error = unreadable
            # If its worker or the scheduler has ended, `_remove` or `_check` handles the task.
            if future.status in ("finished", "error") and not isinstance(
                error, distributed.KilledWorker
            ):
                self._put(on_end, error)

        # The topic makes keys unique: another run on this scheduler could have the same ones.
        future: Future[None] = self._client.submit(
            function,
            self._topic,
            *arguments,
            key=(*key, self._topic),
            workers=[address],
            resources=resources,
            pure=False,
        )
        future.add_done_callback(ended)
        return future

    def _on_cluster_event(self, event: tuple[float, dict[str, Any]]) -> None:
        happened = event[1]
        if happened.get("action") == "add-worker":
            self._put(self._join, happened["worker"])
        elif happened.get("action") == "remove-worker":
            self._put(self._remove, happened["worker"], happened["expected"])

    def _join(self, address: str) -> None:
        if address not in self._workers:
            key, arguments = ("examine", address), (self._job.probe, self._job.settings.backend)
            on_end = functools.partial(self._end_examination, address)
            examination = self._submit(address, key, examine_worker, arguments, on_end)
            self._workers[address] = _Worker(address, examination)
            self._last_usable = time.monotonic()

    def _end_examination(self, address: str, error: BaseException | None) -> None:
        worker = self._workers.get(address)
        if worker is not None and error is not None:
            problem = f"cannot load flowcpc ({_words(error)}); install the same flowcpc there"
            self._exclude(worker, problem)

    def _exclude(self, worker: _Worker, problem: str) -> None:
        """Leave an unusable worker out; before the first video it stops the run."""
        if not self._tasks_started:
            raise OperationError(f"{worker} {problem}")
        self._job.listener.announce(f"left out: {worker} {problem}")
        self._workers.pop(worker.address, None)

    def _leave(self, address: str) -> None:
        if address in self._workers:
            self._workers[address].is_leaving = True

    def _receive(self, address: str, message: Message) -> None:
        worker = self._workers.get(address)
        if worker is None:
            return
        if isinstance(message, WorkerReport):
            self._admit(worker, message)
        elif (video := worker.videos.get(message.video_id)) is None:
            return
        elif isinstance(message, PairsDone):
            self._count_pairs(worker, video, message.pairs)
        else:
            video.outcome = message

    def _admit(self, worker: _Worker, report: WorkerReport) -> None:
        problem = judge(self._job.probe, report)
        worker.report = report
        if problem:
            self._exclude(worker, problem)
            return
        worker.ready_since = time.monotonic()

    def _count_pairs(self, worker: _Worker, video: _InFlight, pairs: int) -> None:
        for counter in (self, worker, video):
            counter.pairs += pairs

    def _end_video(self, worker: _Worker, video_id: str, error: BaseException | None) -> None:
        if video_id not in worker.videos or self._workers.get(worker.address) is not worker:
            return
        if isinstance(error, StoreWriteError):
            raise error
        if error is not None:
            raise OperationError(f"{worker} cannot work ({_words(error)}); mend it and run again")
        self._end(worker, worker.videos.pop(video_id))

    def _end(self, worker: _Worker, video: _InFlight, **cause: Any) -> None:
        """Note that a video has ended, with its outcome or, if it has none, the `cause`."""
        flows = 0 if video.outcome is None else video.outcome.flows
        self._count_pairs(worker, video, flows - video.pairs)
        cause = cause if video.outcome is None else {}
        self._ended.append(EndedTask(video.task, video.outcome, **cause))

    def _remove(self, address: str, expected: bool) -> None:
        """Remove a worker that has left or died."""
        worker = self._workers.get(address)
        if worker is None:
            return
        died = not (expected or worker.is_leaving)
        if died and worker.report is None:  # it died before it could say why
            self._exclude(
                worker, "died when it was asked to load flowcpc; install the same flowcpc there"
            )
        self._workers.pop(address, None)
        worker.examination.release()
        unfinished = [video for video in worker.videos.values() if video.outcome is None]
        cause: dict[str, Any] = {}
        if died and worker.report is not None and len(unfinished) == 1:
            died_how = functools.partial(cause_of_death, self._client, worker.report)
            cause = {"cause_of_death": died_how}
        elif died:
            cause = {"is_suspect": True}
        for video in worker.videos.values():
            video.future.release()
            self._end(worker, video, **cause)

    def _check(self) -> None:
        """Raise OperationError if the cluster is lost or brings no worker that can be used."""
        self._checked = now = time.monotonic()
        trouble = self._trouble() if self._client.status == "running" else f"{self._name} is gone"
        if trouble:
            raise OperationError(
                f"{trouble}; committed videos are safe, run the same command again to resume"
            )
        if any(worker.report for worker in self._workers.values()):
            self._last_usable = now
        limit = _EXAMINE_S if self._workers else self._wait_s
        if limit is not None and now - self._last_usable > limit:
            raise OperationError(
                f"{self._name} has had no usable worker for {limit:g} s; "
                "start workers, or read their output, and run again"
            )


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
