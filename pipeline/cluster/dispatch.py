"""Who works on which video, in workers that come, go and die, and whom to blame.

A worker has one video in hand, or on a GPU one in each of its slots. Who had a worker alone is to blame for its death; of several each is a
suspect, and is tried again alone.

Knows nothing of Dask; `cluster.py` brings the messages and carries out what is decided here.
"""

import dataclasses
import queue
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Protocol

from flowcpc.pipeline.cluster.backlog import Backlog
from flowcpc.pipeline.cluster.event_log import Note
from flowcpc.pipeline.cluster.preflight import Probe, judge
from flowcpc.pipeline.extraction.extract import ExtractionSettings, Outcome, StoreWriteError
from flowcpc.pipeline.extraction.ledger import VideoTask
from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.records.contract import WorkerState

_TICK_S = 0.5
_EXAMINE_S = 180.0  # a worker's first import may come over a slow network disk

# What a hub reports, as (kind, address of the worker, values).
JOINED, LEFT, LEAVING, EXAMINED, PAIRS, OUTCOME, UNWRITABLE, ENDED = range(8)
Settled = tuple[VideoTask, Outcome, dict[str, Any]]  # a video, what became of it, and where
Message = tuple[int, str, dict[str, Any]]


class Hub(Protocol):
    """What the dispatcher needs of a cluster."""

    messages: "queue.SimpleQueue[Message]"
    name: str
    wait_s: float | None

    def examine(self, address: str, probe: Probe, backend: str) -> object:
        """Ask a worker to examine itself; EXAMINED follows, or ENDED with an error."""

    def extract(
        self, address: str, settings: ExtractionSettings, task: VideoTask, attempt: int
    ) -> object:
        """Give a video to a worker. OUTCOME follows, if there is one, and then ENDED; or LEFT."""

    def release(self, handle: object) -> None:
        """Take back what was given; a worker drops the video."""

    def exit_message(self, nanny: str | None, pid: int) -> str:
        """Return how a worker process ended, as far as its machine knows."""

    def trouble(self) -> str:
        """Return why the cluster cannot go on, in words; empty where it can."""


@dataclasses.dataclass
class Hand:
    """A video in a worker's hands, and what was heard of it."""

    task: VideoTask
    handle: object
    since: float
    outcome: Outcome | None = None
    pairs: int = 0


@dataclasses.dataclass
class Worker:
    """One worker process; `hands` are its videos by their ids, `examination` what was given to it before the first."""

    address: str
    since: float
    examination: object = None
    ready: bool = False
    ready_since: float = 0.0
    pairs: int = 0
    leaving: bool = False
    host: str = ""
    pid: int = 0
    nanny: str | None = None
    slots: int = 1
    hands: dict[str, Hand] = dataclasses.field(default_factory=dict)


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
        self._attempts = 0
        self._seen = time.monotonic()
        self._started = False
        self._first_ready: float | None = None

    def fields(self) -> dict[str, str]:
        """Return the state of the workers in a few words, for a progress display."""
        ready = [worker for worker in self.workers.values() if worker.ready]
        busy = [worker for worker in ready if worker.hands]
        fields = {"workers": f"{len(busy)} of {len(ready)} busy"}
        hands = [
            (hand.since, hand.task.video.video_id, worker.host)
            for worker in busy
            for hand in worker.hands.values()
        ]
        if hands:
            since, video_id, host = min(hands)
            seconds = time.monotonic() - since
            if seconds > 60:
                fields["longest"] = f"{video_id} {seconds:.0f} s on {host}"
        return fields

    def states(self) -> list[WorkerState]:
        """Return what each worker has in hand, and how fast it was since it was taken into use."""
        now, clock = time.monotonic(), time.time()
        states = []
        for worker in self.workers.values():
            if worker.ready:
                hands = sorted(
                    (hand.since, hand.task.video.video_id) for hand in worker.hands.values()
                )
                since = clock - (now - hands[0][0] if hands else 0.0)
                rate = worker.pairs / max(now - worker.ready_since, 1e-3)
                videos = tuple(video_id for _, video_id in hands)
                states.append(WorkerState(worker.host, worker.pid, videos, since, rate))
        return sorted(states, key=lambda state: (state.host, state.pid))

    def outcomes(
        self,
        settings: ExtractionSettings,
        backlog: Backlog,
        show: Callable[[], None],
        should_stop: Callable[[], bool],
    ) -> Generator[Settled, None, None]:
        """Yield every video whose outcome stands, with where it was made, until none is left or `should_stop`.

        Raises OperationError in a sentence when no worker can be used, or the cluster is lost, and StoreWriteError.
        """
        try:
            looked = time.monotonic()
            while backlog.unfinished:
                stopping = should_stop()
                self._started = self._started or self._may_start()
                if self._started and not stopping:
                    self._give_out(settings, backlog)
                if time.monotonic() - looked >= _TICK_S:  # however much there is to hear
                    looked = time.monotonic()
                    self._look_after()
                    show()
                try:
                    kind, address, values = self._hub.messages.get(
                        block=not stopping, timeout=_TICK_S
                    )
                except queue.Empty:
                    if stopping:
                        return
                    continue
                if kind == JOINED:
                    self._join(address, settings)
                elif (worker := self.workers.get(address)) is None:
                    continue  # the last words of one that has gone
                elif kind == EXAMINED:
                    self._admit(worker, values)
                elif kind == LEAVING:
                    worker.leaving = True
                elif kind == UNWRITABLE:
                    raise StoreWriteError(values["reason"])
                elif kind == ENDED:
                    yield from self._end(worker, backlog, values["handle"], values["error"])
                elif (
                    kind in (PAIRS, OUTCOME)
                    and (hand := worker.hands.get(values["video_id"])) is not None
                ):
                    self._hear(worker, hand, kind, values)
                elif kind == LEFT:
                    yield from self._bury(worker, backlog, values["expected"])
        finally:
            self._take_back()

    def _may_start(self) -> bool:
        """Return whether the first video may be given out: a worker is ready, and those that had come by then have answered too, or are late."""
        late, first = time.monotonic() - _EXAMINE_S, self._first_ready
        return first is not None and all(
            worker.ready or worker.since > first or worker.since < late
            for worker in self.workers.values()
        )

    def _join(self, address: str, settings: ExtractionSettings) -> None:
        if address not in self.workers:
            worker = self.workers[address] = Worker(address, since=time.monotonic())
            worker.examination = self._hub.examine(address, self._probe, settings.backend)

    def _admit(self, worker: Worker, report: dict[str, Any]) -> None:
        worker.host, worker.pid, worker.nanny = report["host"], report["pid"], report["nanny"]
        worker.slots = report["slots"]
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
        worker.ready, worker.ready_since = True, time.monotonic()
        self._first_ready = self._first_ready or worker.ready_since
        self._note(
            "worker", state="joined", address=worker.address, host=worker.host, pid=worker.pid
        )

    def _give_out(self, settings: ExtractionSettings, backlog: Backlog) -> None:
        while len(backlog) and (worker := self._free_worker(backlog)) is not None:
            task = backlog.take()
            self._attempts += 1
            handle = self._hub.extract(worker.address, settings, task, self._attempts)
            worker.hands[task.video.video_id] = Hand(task, handle, time.monotonic())

    def _free_worker(self, backlog: Backlog) -> Worker | None:
        """Return a worker that can take the next video, the one with the fewest in hand; None where there is none."""
        free = [
            worker
            for worker in self.workers.values()
            if worker.ready and not worker.leaving and len(worker.hands) < worker.slots
            if not any(backlog.is_suspect(hand.task) for hand in worker.hands.values())
        ]
        chosen = min(free, key=lambda worker: len(worker.hands), default=None)
        return (
            None
            if chosen is None or (chosen.hands and backlog.is_suspect(backlog.first))
            else chosen
        )

    def _hear(self, worker: Worker, hand: Hand, kind: int, values: dict[str, Any]) -> None:
        if kind == OUTCOME:
            hand.outcome = Outcome(**values)
        else:
            self.pairs += values["pairs"]
            worker.pairs += values["pairs"]
            hand.pairs += values["pairs"]

    def _end(
        self, worker: Worker, backlog: Backlog, handle: object, error: str
    ) -> Iterator[Settled]:
        if handle is worker.examination and error:
            self._answered(worker, f"cannot load flowcpc ({error}); install the same flowcpc there")
        hand = next((hand for hand in worker.hands.values() if hand.handle is handle), None)
        if hand is None:
            return
        if error:
            raise OperationError(
                f"the worker at {worker.address} on {worker.host} cannot work ({error}); mend it and run again"
            )
        del worker.hands[hand.task.video.video_id]
        self._credit(worker, hand)
        if hand.outcome is None:
            backlog.put_back(hand.task)  # dropped
        elif (settled := backlog.settle(hand.task, hand.outcome)) is not None:
            yield hand.task, settled, {"host": worker.host, "pid": worker.pid}

    def _bury(self, worker: Worker, backlog: Backlog, expected: bool) -> Iterator[Settled]:
        del self.workers[worker.address]
        self._seen = time.monotonic()
        went = expected or worker.leaving
        state = "left" if went else "died"
        self._note(
            "worker",
            state=state,
            address=worker.address,
            host=worker.host,
            pid=worker.pid,
            video_ids=list(worker.hands),
        )
        for handle in (worker.examination, *(hand.handle for hand in worker.hands.values())):
            self._hub.release(handle)
        if not went and not worker.ready:
            # One without the package closes when it is sent something of ours, and does not say why.
            self._answered(
                worker, "died when it was asked to load flowcpc; install the same flowcpc there"
            )
        for hand in worker.hands.values():
            self._credit(worker, hand)
            if (
                hand.outcome is not None
                and (settled := backlog.settle(hand.task, hand.outcome)) is not None
            ):
                yield hand.task, settled, {"host": worker.host, "pid": worker.pid}
        tasks = [hand.task for hand in worker.hands.values() if hand.outcome is None]
        if went or len(tasks) > 1:
            backlog.put_back(*tasks, suspected=not went)
        for task in tasks if len(tasks) == 1 and not went else ():
            cause = ""
            if backlog.is_last_try(task):
                cause = self._hub.exit_message(worker.nanny, worker.pid)
            settled = backlog.settle_death(
                task, f"{cause or 'the cause is not known'}, on {worker.host}"
            )
            if settled is not None:
                yield task, settled, {"host": worker.host, "pid": worker.pid}

    def _credit(self, worker: Worker, hand: Hand) -> None:
        """Count a video by its outcome instead of by what was heard while it was in hand."""
        unheard = (hand.outcome.flows if hand.outcome else 0) - hand.pairs
        self.pairs += unheard
        worker.pairs += unheard

    def _look_after(self) -> None:
        trouble = self._hub.trouble()
        if trouble:
            raise OperationError(
                f"{trouble}; what was committed is safe, and the same command goes on"
            )
        now, limit = time.monotonic(), self._hub.wait_s
        if any(worker.ready for worker in self.workers.values()) or (
            self.workers and not self._started
        ):
            self._seen = now
        elif limit is not None and now - self._seen > limit:
            raise OperationError(
                f"{self._hub.name} has had no worker for {limit:g} s; start some, or look at their output, and run again"
            )
        for worker in self.workers.values():
            if (
                not self._started
                and not self._may_start()
                and not worker.ready
                and now - worker.since > _EXAMINE_S
            ):
                raise OperationError(
                    f"the worker at {worker.address} did not answer within {_EXAMINE_S:g} s; look at its output"
                )

    def _take_back(self) -> None:
        for worker in self.workers.values():
            for hand in worker.hands.values():
                self._hub.release(hand.handle)


def end_of_process(log: Iterable[str], pid: int) -> str:
    """Return how process `pid` ended by the lines that its nanny logged; empty where they do not say.

    >>> end_of_process(["Worker process 12 was killed by signal 11", "Restarting worker"], 12)
    'was killed by signal 11'
    >>> end_of_process(["Worker tcp://a:1 (pid=12) exceeded 95% memory budget. Restarting..."], 12)
    'exceeded 95% memory budget'
    """
    ends = [
        re.search(
            rf"(?:Worker process {pid}|\(pid={pid}\)) ((?:was killed|exited|exceeded)[^.]*)", line
        )
        for line in log
    ]
    return ", ".join(dict.fromkeys(end[1] for end in ends if end))
