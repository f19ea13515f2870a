"""A whole extraction: plan it by the store's records, work it off where it is asked for, rebuild the tables."""

import contextlib
import dataclasses
import functools
import os
import platform
import queue
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from flowcpc.pipeline.cluster.backlog import Backlog
from flowcpc.pipeline.cluster.dispatch import Dispatcher, Settled
from flowcpc.pipeline.cluster.event_log import Note, no_log
from flowcpc.pipeline.cluster.places import InProcess, LocalProcesses, Place
from flowcpc.pipeline.cluster.preflight import made_probe
from flowcpc.pipeline.cluster.shards import Shard, videos_of_shard
from flowcpc.pipeline.datasets.sources import Video
from flowcpc.pipeline.decoding.limits import Preempted
from flowcpc.pipeline.extraction.extract import (
    STORED,
    ExtractionSettings,
    Outcome,
    StoreWriteError,
    extract_video,
)
from flowcpc.pipeline.extraction.ledger import (
    ExtractionPlan,
    ExtractionSummary,
    VideoTask,
    find_failed,
    find_outdated,
    plan_extraction,
    refuse_other_names,
)
from flowcpc.pipeline.tvl1.batching import videos_at_a_time
from flowcpc.pipeline.tvl1.solver import available_threads, prepare
from flowcpc.stores.base.errors import OperationError, first_line
from flowcpc.stores.base.listener import Progress
from flowcpc.stores.flow_store import create_store
from flowcpc.stores.layout import STORE_FILE
from flowcpc.stores.records.contract import WorkerState
from flowcpc.stores.records.garbage import take_back
from flowcpc.stores.records.run_files import RunFile

_TICK_S = 0.2
Fields = Mapping[str, float | str]


def run_extraction(
    settings: ExtractionSettings,
    videos: Sequence[Video],
    place: Place,
    *,
    shard: Shard | None = None,
    whole_dataset: Collection[str] = (),
    again: Collection[str] = (),
    retry_failed: bool = False,
    max_failures: int | None = None,
    extract: Callable[..., Outcome] = extract_video,
    progress: Progress = lambda done, total, fields: None,
    announce: Callable[[str], None] = lambda message: None,
    note: Note = no_log,
    show_workers: Callable[[Sequence[WorkerState]], None] = lambda workers: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> ExtractionSummary:
    """Extract the flow of every video that the store lacks, at `place`, and rebuild the index.

    Parameters
    ----------
    settings : ExtractionSettings
    videos : sequence of Video
    place : Place
    shard : (int, int), optional
        (I, N): only the I-th of N parts of `videos`; all of them are what the store is meant to hold.
    whole_dataset : collection of str
        Ids of all videos of the data set, when `videos` are a part of it (`--limit`).
    again : collection of str
        Ids that are extracted although the store has them.
    retry_failed : bool
        Try again those that failed because of their file.
    max_failures : int, optional
        Stop once more videos than this have failed in this run.
    extract : callable
        What is done with a video, with the arguments of `extract_video`.
    progress, announce, note, show_workers, should_stop : callables
        `progress` counts bytes of video files; its fields are videos, failed, pairs/s and how many workers are busy. `note` hears of every
        event, `show_workers` now and then what each worker has in hand.

    Raises
    ------
    ValueError
        The store has other numerics, or the place cannot be had here.
    OperationError
        The cluster cannot be used or is lost; StoreWriteError when the store cannot be written.
    """
    began = time.perf_counter()
    part = list(videos) if shard is None else videos_of_shard(videos, Path(settings.videos), shard)
    with _meant_for_store(settings.store):
        store = create_store(settings.store, settings.numerics(), settings.array_format)
        store.collect_garbage()
        with store.in_use():
            # Again: another run, that had made it and failed, may have taken it back before this one held it.
            store = create_store(settings.store, settings.numerics(), settings.array_format)
            refuse_other_names(store, videos)
            everything = whole_dataset or {video.video_id for video in videos}
            store.set_dataset([video.to_record() for video in videos], everything)
            plan = plan_extraction(store, settings, part, again=again, retry_failed=retry_failed)
            announce(_describe(plan))
            summary = ExtractionSummary(videos=len(part), stored_before=plan.stored)
            note(
                "start",
                store=str(store.path),
                videos=len(part),
                to_do=len(plan.tasks),
                stored=plan.stored,
            )
            try:
                summary.finished = not plan.tasks
                if plan.tasks and not should_stop():
                    backlog = Backlog(store, settings.videos, plan.tasks)
                    with (
                        RunFile(store.path, len(plan.tasks)) as run_file,
                        _opened(place, settings, backlog, extract, announce, note) as (
                            engine,
                            there,
                        ),
                    ):
                        tell = functools.partial(_tell, progress, show_workers, run_file, engine)
                        _work_off(
                            engine,
                            there,
                            backlog,
                            plan,
                            summary,
                            max_failures,
                            tell,
                            note,
                            should_stop,
                        )
            except BaseException as error:
                with contextlib.suppress(OperationError):  # what ended the run is to be said
                    _note_stop(note, summary, began)
                # Workers that are starting while everything is asked to stop fail in their own ways.
                if (
                    not should_stop()
                    or isinstance(error, StoreWriteError)
                    or not isinstance(error, OperationError)
                ):
                    raise
            else:
                _note_stop(note, summary, began)
            summary.outdated = find_outdated(store, plan)
            summary.failed = find_failed(store, part)
        with (
            store.left_alone() as alone
        ):  # of shards that end together the last one rebuilds the tables, once
            if alone and not store.is_indexed():
                store.consolidate()
    summary.seconds = time.perf_counter() - began
    return summary


@contextlib.contextmanager
def _meant_for_store(path: str) -> Iterator[None]:
    """Say errors of the disk as those of the store; one that was made here is taken back when that fails before its first video."""
    new = not (Path(path) / STORE_FILE).exists()
    try:
        yield
    except Exception as error:
        if new:
            with contextlib.suppress(OSError, OperationError):
                take_back(Path(path))
        if isinstance(error, OSError):
            raise StoreWriteError(
                f"store {path} cannot be written ({error.strerror or error}); mend it and run again"
            ) from error
        raise


def _tell(
    progress: Progress,
    show_workers: Callable[[Sequence[WorkerState]], None],
    run_file: RunFile,
    engine: "_InProcess | Dispatcher",
    settled: int,
    done: int,
    total: int,
    fields: Fields,
) -> None:
    workers = engine.states()
    progress(done, total, {**fields, **engine.fields()})
    show_workers(workers)
    run_file.tell(settled, workers)


def _note_stop(note: Note, summary: ExtractionSummary, began: float) -> None:
    counts = {"stored": summary.stored, "failed": summary.failed_now, "pairs": summary.pairs}
    note("stop", finished=summary.finished, **counts, seconds=round(time.perf_counter() - began, 3))


def _describe(plan: ExtractionPlan) -> str:
    parts = [f"{len(plan.tasks)} to do", f"{plan.stored} stored already"]
    if plan.standing:
        parts.append(f"{len(plan.standing)} failed for good or absent")
    return ", ".join(parts)


@contextlib.contextmanager
def _opened(
    place: Place,
    settings: ExtractionSettings,
    backlog: Backlog,
    extract: Callable[..., Outcome],
    announce: Callable[[str], None],
    note: Note,
) -> Iterator[tuple["_InProcess | Dispatcher", ExtractionSettings]]:
    """Yield what works off the backlog at `place`, and the settings it needs."""
    if isinstance(place, InProcess):
        prepare(settings.backend, announce)
        yield _InProcess(extract), dataclasses.replace(settings, threads=available_threads())
        return
    # Only here is Dask loaded. What is sent to it has paths that do not depend on where a worker was started.
    from flowcpc.pipeline.cluster.dask_hub import started_hub

    videos, store = (str(Path(path).absolute()) for path in (settings.videos, settings.store))
    settings = dataclasses.replace(settings, videos=videos, store=store)
    threads = 1
    if isinstance(place, LocalProcesses):
        prepare(settings.backend, announce)
        # Fewer videos than processes: the cores that are left over serve as threads.
        count = min(place.count, backlog.unfinished)
        place, threads = LocalProcesses(count), place.count // count
    hub = started_hub(
        place,
        threads=threads,
        needed=lambda: backlog.unfinished,
        announce=announce,
        extract=extract,
    )
    with made_probe(settings, backlog.first) as probe, contextlib.ExitStack() as stack:
        try:
            entered = stack.enter_context(hub)
        except OperationError:
            raise
        except (RuntimeError, OSError) as error:  # whatever Dask says, it is not the store's
            raise OperationError(
                f"the workers cannot be started ({first_line(error)}); mend it and run again"
            ) from error
        yield Dispatcher(entered, probe, announce, note), settings


def _work_off(
    engine: "_InProcess | Dispatcher",
    settings: ExtractionSettings,
    backlog: Backlog,
    plan: ExtractionPlan,
    summary: ExtractionSummary,
    max_failures: int | None,
    tell: Callable[[int, int, int, Fields], None],
    note: Note,
    should_stop: Callable[[], bool],
) -> None:
    """Work off the backlog; `summary` is right at any moment, whatever is raised."""
    began = time.perf_counter()
    total = sum(task.source_bytes for task in plan.tasks)
    done = settled = 0

    def show() -> None:
        rate = engine.pairs / (time.perf_counter() - began)
        counts: Fields = {
            "videos": f"{settled}/{len(plan.tasks)}",
            "failed": f"{summary.failed_now}",
            "pairs/s": rate,
        }
        tell(settled, done, total, counts)

    show()
    with contextlib.closing(engine.outcomes(settings, backlog, show, should_stop)) as outcomes:
        for task, outcome, where in outcomes:
            done += task.source_bytes
            settled += 1
            if outcome.status == STORED:
                summary.stored += 1
                summary.pairs += outcome.flows
            else:
                summary.failed_now += 1
            note("video", **dataclasses.asdict(outcome), **where)
            show()
            if max_failures is not None and summary.failed_now > max_failures:
                summary.gave_up = settled < len(plan.tasks)
                break
    summary.finished = settled == len(plan.tasks)


class _InProcess:
    """Videos in threads of this process, as many at a time as the backend has use for."""

    def __init__(self, extract: Callable[..., Outcome]) -> None:
        self.pairs = 0
        self._extract = extract
        self._began = time.monotonic()
        self._since: dict[str, float] = {}  # of each video in hand, seconds since the epoch

    def fields(self) -> dict[str, str]:
        return {}

    def states(self) -> list[WorkerState]:
        rate = self.pairs / max(time.monotonic() - self._began, 1e-3)
        since = min(self._since.values(), default=time.time())
        return [WorkerState(platform.node(), os.getpid(), tuple(self._since), since, rate)]

    def outcomes(
        self,
        settings: ExtractionSettings,
        backlog: Backlog,
        show: Callable[[], None],
        should_stop: Callable[[], bool],
    ) -> Generator[Settled, None, None]:
        at_a_time = videos_at_a_time(settings.backend, settings.threads)
        settings = dataclasses.replace(settings, threads=settings.threads // at_a_time)
        given_up = threading.Event()
        done: queue.SimpleQueue[tuple[VideoTask, Future[Outcome]]] = queue.SimpleQueue()
        heard: queue.SimpleQueue[int] = queue.SimpleQueue()
        in_hand = 0
        with ThreadPoolExecutor(at_a_time, "extract") as pool:
            try:
                while in_hand or (backlog.unfinished and not should_stop()):
                    while in_hand < at_a_time and len(backlog) and not should_stop():
                        task = backlog.take()
                        stop = lambda: should_stop() or given_up.is_set()  # noqa: E731
                        future = pool.submit(
                            self._extract, settings, task.video, heard.put, should_stop=stop
                        )
                        future.add_done_callback(lambda future, task=task: done.put((task, future)))  # type: ignore[misc]
                        self._since[task.video.video_id] = time.time()
                        in_hand += 1
                    with contextlib.suppress(queue.Empty):
                        task, future = done.get(timeout=_TICK_S)
                        in_hand -= 1
                        del self._since[task.video.video_id]
                        with contextlib.suppress(Preempted):
                            if (settled := backlog.settle(task, future.result())) is not None:
                                yield task, settled, {}
                    while not heard.empty():
                        self.pairs += heard.get()
                    show()
            finally:
                given_up.set()
