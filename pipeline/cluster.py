"""Extraction over many processes: one task per video, a bounded window of them, every outcome in the store. The only
file that imports dask.

The ledger is on disk, never in the scheduler: a task commits its own video, so a client, a worker or a scheduler may
die at any moment and the next run goes on from the records.
"""

import contextlib
import dataclasses
import signal
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, get_worker, wait

from pipeline.extract import (
    FAILED,
    KIND_MACHINE,
    STORED,
    Outcome,
    Settings,
    StoreWriteError,
    extract_video,
    record_failure,
    source_stamp,
)
from pipeline.ledger import Plan, Summary, Task, plan_extraction
from pipeline.limits import Preempted
from pipeline.sources import Video
from pipeline.tvl1.solver import available_threads, prepare
from stores.catalog import KIND_PENDING
from stores.flow_store import FlowStore, create_store
from stores.progress import Progress

_PAIRS_TOPIC = "flowcpc-pairs"


def run_extraction(
    settings: Settings,
    videos: Sequence[Video],
    *,
    workers: int,
    whole_dataset: Collection[str] = (),
    again: Collection[str] = (),
    retry_failed: bool = False,
    progress: Progress = lambda done, total, fields: None,
    announce: Callable[[str], None] = lambda message: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Extract the flow of every video that the store lacks, on `workers` processes (0: in this one), and rebuild the
    index.

    `whole_dataset` holds the ids of all videos of the data set when `videos` are a part of it (`--limit`); those in `again` are extracted
    although the store has them.

    Raises ValueError for a store of other numerics and StoreWriteError when the store cannot be written. `progress` counts bytes of video
    files; its fields are videos, failed, pairs/s.
    """
    began = time.perf_counter()
    try:
        store = create_store(settings.store, settings.numerics(), settings.array_format)
        store.collect_garbage()
        with store.in_use():
            store.set_dataset(
                [video.to_record() for video in videos], whole_dataset or {video.video_id for video in videos}
            )
            plan = plan_extraction(store, settings, videos, again=again, retry_failed=retry_failed)
            announce(_describe(plan))
            summary = Summary(videos=len(videos), stored_before=plan.stored)
            if plan.tasks:
                prepare(settings.backend, announce)
                # Fewer videos than processes: the cores that are left over serve as threads.
                processes = min(workers, len(plan.tasks))
                threads = workers // processes if processes else available_threads()
                run = _OnDask(processes) if processes else _InProcess()
                _work_off(
                    run, store, dataclasses.replace(settings, threads=threads), plan, summary, progress, should_stop
                )
            store.consolidate()
            table = store.failures()
            failures = table[table["kind"] != KIND_PENDING].set_index("video_id")["reason"]
    except OSError as error:
        raise StoreWriteError(
            f"store {settings.store} cannot be written ({error.strerror or error}); mend it and run again"
        ) from error
    wanted = {video.video_id for video in videos}
    summary.failed = [(str(video_id), str(reason)) for video_id, reason in failures.items() if video_id in wanted]
    summary.seconds = time.perf_counter() - began
    return summary


def _describe(plan: Plan) -> str:
    parts = [f"{len(plan.tasks)} to do", f"{plan.stored} stored already"]
    if plan.standing:
        parts.append(f"{len(plan.standing)} failed for good or absent")
    return ", ".join(parts)


def _work_off(
    run: "_InProcess | _OnDask",
    store: FlowStore,
    settings: Settings,
    plan: Plan,
    summary: Summary,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> None:
    began = time.perf_counter()
    total = sum(task.source_bytes for task in plan.tasks)
    done = finished = failed = 0

    def show() -> None:
        rate = run.pairs / (time.perf_counter() - began)
        progress(done, total, {"videos": f"{finished}/{len(plan.tasks)}", "failed": f"{failed}", "pairs/s": rate})

    with run.started():
        show()
        for task, outcome in run.outcomes(store, settings, plan.tasks, show, should_stop):
            done += task.source_bytes
            finished += 1
            if outcome.status == STORED:
                summary.stored += 1
                summary.pairs += outcome.flows
            else:
                failed += 1
            show()
    summary.finished = finished == len(plan.tasks)


class _InProcess:
    """Videos one after the other in this process."""

    def __init__(self) -> None:
        self.pairs = 0

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        yield

    def outcomes(
        self,
        store: FlowStore,
        settings: Settings,
        tasks: Sequence[Task],
        show: Callable[[], None],
        should_stop: Callable[[], bool],
    ) -> Iterator[tuple[Task, Outcome]]:
        def on_pairs(pairs: int) -> None:
            self.pairs += pairs
            show()

        for task in tasks:
            if should_stop():
                return
            try:
                outcome = extract_video(settings, task.video, on_pairs, should_stop=should_stop)
            except Preempted:
                return
            yield task, outcome


class _OnDask:
    """Videos on a local cluster of processes, a bounded window of them submitted at a time."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self.pairs = 0
        self._client: Client | None = None

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        quiet = {
            "distributed.admin.log-length": 100,
            "logging.distributed": "critical",
            "distributed.comm.timeouts.connect": "60s",
        }
        with (
            dask.config.set(quiet),
            LocalCluster(
                n_workers=self._workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",
                silence_logs=50,
            ) as cluster,
            Client(cluster) as client,
        ):
            client.run(_leave_interrupts_to_the_client)
            client.subscribe_topic(_PAIRS_TOPIC, self._on_pairs)
            self._client = client
            yield

    def _on_pairs(self, event: tuple[object, int]) -> None:
        self.pairs += event[1]

    def outcomes(
        self,
        store: FlowStore,
        settings: Settings,
        tasks: Sequence[Task],
        show: Callable[[], None],
        should_stop: Callable[[], bool],
    ) -> Iterator[tuple[Task, Outcome]]:
        assert self._client is not None
        waiting = deque(tasks)
        running: dict[Future[Outcome], Task] = {}
        while waiting or running:
            if should_stop():
                for future in [future for future in running if future.done()]:
                    task = running.pop(future)
                    yield task, _outcome(future, store, settings, task.video)
                self._client.cancel(list(running))
                return
            # One task per worker and no more: Dask blames a dead worker on every task that it had in hand.
            while waiting and len(running) < self._workers:
                task = waiting.popleft()
                future = self._client.submit(
                    _extract_on_worker, settings, task.video, key=f"extract-{task.video.video_id}", pure=False
                )
                running[future] = task
            try:
                done = wait(list(running), timeout=0.5, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                show()
                continue
            for future in done:
                task = running.pop(future)
                yield task, _outcome(future, store, settings, task.video)


def _outcome(future: Future[Outcome], store: FlowStore, settings: Settings, video: Video) -> Outcome:
    if future.status == "finished":
        result: Outcome = future.result()
        return result
    error = future.exception()
    if isinstance(error, StoreWriteError):
        raise error
    reason = (
        "killed its worker process again and again"
        if isinstance(error, KilledWorker)
        else f"{type(error).__name__}: {error}"
    )
    record_failure(store, video, KIND_MACHINE, reason, source_stamp(Path(settings.videos, video.path)))
    return Outcome(video.video_id, FAILED, reason=reason)


def _extract_on_worker(settings: Settings, video: Video) -> Outcome:
    worker = get_worker()
    return extract_video(settings, video, lambda pairs: worker.log_event(_PAIRS_TOPIC, pairs))


def _leave_interrupts_to_the_client() -> None:
    """Ctrl-C reaches every process of a terminal; the client alone decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
