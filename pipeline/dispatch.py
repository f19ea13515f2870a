"""Who works on which video: one video in each worker, workers that come, go and die, and whom to blame.

Knows nothing of Dask; `cluster.py` brings the messages and carries out what is decided here.
"""

import dataclasses
import queue
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Protocol

from pipeline.backlog import Backlog
from pipeline.event_log import Note
from pipeline.extract import Outcome, Settings, StoreWriteError
from pipeline.ledger import Task
from pipeline.preflight import Probe, judge
from stores.errors import OperationError

_TICK_S = 0.5
_EXAMINE_S = 180.0  # a worker's first import may come over a slow network disk

# What a hub reports, as (kind, address of the worker, values).
JOINED, LEFT, LEAVING, EXAMINED, PAIRS, OUTCOME, UNWRITABLE, ENDED = range(8)
Settled = tuple[Task, Outcome, dict[str, Any]]  # a video, what became of it, and where
Message = tuple[int, str, dict[str, Any]]


class Hub(Protocol):
    """What the dispatcher needs of a cluster."""

    messages: "queue.SimpleQueue[Message]"
    name: str
    wait_s: float | None

    def examine(self, address: str, probe: Probe, backend: str) -> object:
        """Ask a worker to examine itself; EXAMINED follows, or ENDED with an error."""

    def extract(self, address: str, settings: Settings, task: Task, attempt: int) -> object:
        """Give a video to a worker. OUTCOME follows, if there is one, and then ENDED; or LEFT."""

    def release(self, handle: object) -> None:
        """Take back what was given; a worker drops the video."""

    def exit_message(self, nanny: str | None, pid: int) -> str:
        """Return how a worker process ended, as far as its machine knows."""

    def trouble(self) -> str:
        """Return why the cluster cannot go on, in words; empty where it can."""


@dataclasses.dataclass
class Worker:
    """One worker process. `task` is what it has in hand; `outcome` what it said of that."""

    address: str
    handle: object = None
    ready: bool = False
    leaving: bool = False
    host: str = ""
    pid: int = 0
    nanny: str | None = None
    task: Task | None = None
    outcome: Outcome | None = None
    since: float = 0.0
    pairs: int = 0


class Dispatcher:
    """Hands out the videos of a backlog.

    Attributes
    ----------
    pairs : int
        Pairs done in this run, those of videos in hand among them.
    workers : dict
        By address.
    """

    def __init__(self, hub: Hub, probe: Probe, announce: Callable[[str], None], note: Note) -> None:
        self.pairs = 0
        self.workers: dict[str, Worker] = {}
        self._hub = hub
        self._probe = probe
        self._announce = announce
        self._note = note
        self._idle: dict[str, None] = {}
        self._attempts = 0
        self._seen = time.monotonic()
        self._started = False

    def fields(self) -> dict[str, str]:
        """Return the state of the workers in a few words, for a progress display."""
        ready = [worker for worker in self.workers.values() if worker.ready]
        busy = [worker for worker in ready if worker.task is not None]
        fields = {"workers": f"{len(busy)} of {len(ready)} busy"}
        if busy:
            slowest = min(busy, key=lambda worker: worker.since)
            seconds = time.monotonic() - slowest.since
            if slowest.task is not None and seconds > 60:
                fields["longest"] = f"{slowest.task.video.video_id} {seconds:.0f} s on {slowest.host}"
        return fields

    def outcomes(
        self, settings: Settings, backlog: Backlog, show: Callable[[], None], should_stop: Callable[[], bool]
    ) -> Generator[Settled, None, None]:
        """Yield every video whose outcome stands, with where it was made, until none is left or `should_stop`.

        Raises OperationError in a sentence when no worker can be used, or the cluster is lost, and StoreWriteError.
        """
        try:
            while backlog.unfinished:
                stopping = should_stop()
                if not self._started:
                    self._started = bool(self._idle) and all(worker.ready for worker in self.workers.values())
                if self._started and not stopping:
                    self._give_out(settings, backlog)
                try:
                    kind, address, values = self._hub.messages.get(block=not stopping, timeout=_TICK_S)
                except queue.Empty:
                    if stopping:
                        return
                    self._look_after()
                    show()
                    continue
                if kind == JOINED:
                    self._join(address, settings)
                elif (worker := self.workers.get(address)) is None:
                    continue  # the last words of one that has gone
                elif kind == EXAMINED:
                    self._admit(worker, values)
                elif kind == LEAVING:
                    worker.leaving = True
                    self._idle.pop(address, None)
                elif kind == PAIRS:
                    self.pairs += values["pairs"]
                    worker.pairs += values["pairs"]
                elif kind == OUTCOME:
                    worker.outcome = Outcome(**values)
                elif kind == UNWRITABLE:
                    raise StoreWriteError(values["reason"])
                elif kind == ENDED and values["handle"] is worker.handle:
                    yield from self._end(worker, backlog, values["error"])
                elif kind == LEFT:
                    yield from self._bury(worker, backlog, values["expected"])
        finally:
            self._take_back()

    def _join(self, address: str, settings: Settings) -> None:
        if address not in self.workers:
            worker = self.workers[address] = Worker(address, since=time.monotonic())
            worker.handle = self._hub.examine(address, self._probe, settings.backend)

    def _admit(self, worker: Worker, report: dict[str, Any]) -> None:
        worker.host, worker.pid, worker.nanny = report["host"], report["pid"], report["nanny"]
        self._answered(worker, judge(self._probe, report))

    def _answered(self, worker: Worker, problem: str) -> None:
        """Take a worker into use, or say why not. Before the first video a worker that cannot be used stops the run."""
        if problem:
            sentence = f"the worker at {worker.address}{f' on {worker.host}' if worker.host else ''} {problem}"
            if not self._started:
                raise OperationError(sentence)
            self._announce(f"left out: {sentence}")
            self.workers.pop(worker.address, None)
            return
        worker.ready = True
        self._idle[worker.address] = None
        self._note("worker", state="joined", address=worker.address, host=worker.host, pid=worker.pid)

    def _give_out(self, settings: Settings, backlog: Backlog) -> None:
        while self._idle and len(backlog):
            address, _ = self._idle.popitem()
            worker, task = self.workers[address], backlog.take()
            self._attempts += 1
            worker.task, worker.outcome, worker.pairs, worker.since = task, None, 0, time.monotonic()
            worker.handle = self._hub.extract(address, settings, task, self._attempts)

    def _end(self, worker: Worker, backlog: Backlog, error: str) -> Iterator[Settled]:
        task, outcome, worker.task = worker.task, worker.outcome, None
        if task is None:
            if error:
                self._answered(worker, f"cannot load flowcpc ({error}); install the same flowcpc there")
            return
        if error:
            raise OperationError(
                f"the worker at {worker.address} on {worker.host} cannot work ({error}); mend it and run again"
            )
        self._credit(worker, outcome)
        if not worker.leaving:
            self._idle[worker.address] = None
        if outcome is None:
            backlog.put_back(task)  # dropped
        elif (settled := backlog.settle(task, outcome)) is not None:
            yield task, settled, {"host": worker.host, "pid": worker.pid}

    def _bury(self, worker: Worker, backlog: Backlog, expected: bool) -> Iterator[Settled]:
        del self.workers[worker.address]
        self._idle.pop(worker.address, None)
        task = worker.task
        went = expected or worker.leaving
        state = "left" if went else "died"
        video = None if task is None else task.video.video_id
        self._note("worker", state=state, address=worker.address, host=worker.host, pid=worker.pid, video_id=video)
        if worker.handle is not None:
            self._hub.release(worker.handle)
        if not went and not worker.ready:
            # One without the package closes when it is sent something of ours, and does not say why.
            self._answered(worker, "died when it was asked to load flowcpc; install the same flowcpc there")
        if task is None:
            return
        self._credit(worker, None)
        if went:
            backlog.put_back(task)
            return
        cause = ""
        if backlog.is_last_try(task):
            cause = self._hub.exit_message(worker.nanny, worker.pid)
        settled = backlog.settle_death(task, f"{cause or 'the cause is not known'}, on {worker.host}")
        if settled is not None:
            yield task, settled, {"host": worker.host, "pid": worker.pid}

    def _credit(self, worker: Worker, outcome: Outcome | None) -> None:
        """Count a video by its outcome instead of by what was heard while it was in hand."""
        self.pairs += (outcome.flows if outcome else 0) - worker.pairs
        worker.pairs = 0

    def _look_after(self) -> None:
        trouble = self._hub.trouble()
        if trouble:
            raise OperationError(f"{trouble}; what was committed is safe, and the same command goes on")
        now, limit = time.monotonic(), self._hub.wait_s
        if any(worker.ready for worker in self.workers.values()) or (self.workers and not self._started):
            self._seen = now
        elif limit is not None and now - self._seen > limit:
            raise OperationError(
                f"no worker came to {self._hub.name} within {limit:g} s; start some, or look at their output, and run again"
            )
        for worker in self.workers.values():
            if not self._started and not worker.ready and now - worker.since > _EXAMINE_S:
                raise OperationError(
                    f"the worker at {worker.address} did not answer within {_EXAMINE_S:g} s; look at its output"
                )

    def _take_back(self) -> None:
        for worker in self.workers.values():
            if worker.task is not None:
                self._hub.release(worker.handle)


def end_of_process(log: Iterable[str], pid: int) -> str:
    """Return how process `pid` ended by the lines that its nanny logged; empty where they do not say.

    >>> end_of_process(["Worker process 12 was killed by signal 11", "Restarting worker"], 12)
    'was killed by signal 11'
    >>> end_of_process(["Worker tcp://a:1 (pid=12) exceeded 95% memory budget. Restarting..."], 12)
    'exceeded 95% memory budget'
    """
    ends = [
        re.search(rf"(?:Worker process {pid}|\(pid={pid}\)) ((?:was killed|exited|exceeded)[^.]*)", line)
        for line in log
    ]
    return ", ".join(dict.fromkeys(end[1] for end in ends if end))
