"""A whole extraction: plan it from the store's records, extract the videos, rebuild the tables."""

import contextlib
import dataclasses
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from flowcpc.pipeline.cluster.places import InProcess, LocalProcesses, Place
from flowcpc.pipeline.cluster.preflight import made_probe
from flowcpc.pipeline.cluster.shards import Shard, videos_of_shard
from flowcpc.pipeline.cluster.workers import EndedTask, Extract, ThreadWorkers, Workers
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.extraction.extract import (
    FAILED,
    KIND_MACHINE,
    STORED,
    ExtractionSettings,
    Outcome,
    StoreWriteError,
    extract_video,
    record_failure,
    source_stamp,
)
from flowcpc.pipeline.extraction.ledger import (
    ExtractionPlan,
    ExtractionSummary,
    find_failed,
    find_outdated,
    plan_extraction,
    refuse_other_names,
)
from flowcpc.pipeline.tvl1.solver import prepare
from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.base.listener import SILENT, Listener
from flowcpc.stores.flow_store import FlowStore, create_store
from flowcpc.stores.layout import STORE_FILE
from flowcpc.stores.records.contract import WorkerState
from flowcpc.stores.records.garbage import take_back
from flowcpc.stores.records.run_files import RunFile

TRIES = 3  # of a video that kills its worker, or fails in a way that may pass
_SHOW_INTERVAL_S = 0.5
_LONG_S = 60.0


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
    extract: Extract = extract_video,
    listener: Listener = SILENT,
) -> ExtractionSummary:
    """Extract the flow of every video that the store lacks, at `place`, and rebuild the index.

    Parameters
    ----------
    settings : ExtractionSettings
    videos : sequence of Video
    place : Place
    shard : (int, int), optional
        (I, N): extract the I-th of N parts of `videos` only; the store is meant to hold all.
    whole_dataset : collection of str
        Ids of all videos of the data set, when `videos` are a part of it (`--limit`).
    again : collection of str
        Ids of videos to extract even if the store has them.
    retry_failed : bool
        Try again those that failed because of their file.
    max_failures : int, optional
        Stop when more than this number of videos have failed in this run.
    extract : callable
        What is done with a video, with the arguments of `extract_video`.
    listener : Listener
        Its progress counts bytes of video files.

    Raises
    ------
    ValueError
        The store has other numerics, or the place is not available here.
    OperationError
        The cluster cannot be used or is lost; StoreWriteError when the store cannot be written.
    """
    began = time.perf_counter()
    part = list(videos) if shard is None else videos_of_shard(videos, Path(settings.videos), shard)
    with _store_errors(settings.store):
        store = create_store(settings.store, settings.numerics(), settings.array_format)
        store.collect_garbage()
        with store.in_use():
            # Again: a failed run that had created it may have removed it before this one held it.
            store = create_store(settings.store, settings.numerics(), settings.array_format)
            refuse_other_names(store, videos)
            everything = whole_dataset or {video.video_id for video in videos}
            store.set_dataset([video.to_record() for video in videos], everything)
            plan = plan_extraction(store, settings, part, again=again, retry_failed=retry_failed)
            listener.announce(plan.describe())
            run = _Run(store, settings, plan, max_failures, listener)
            if plan.tasks and not listener.should_stop():
                try:
                    with (
                        RunFile(store.path, len(plan.tasks)) as run_file,
                        run.open_workers(place, extract) as workers,
                    ):
                        run.extract_videos(workers, run_file)
                except StoreWriteError:
                    raise
                except OperationError:
                    # Workers that start while everything is asked to stop fail in their own ways.
                    if not listener.should_stop():
                        raise
            outdated, failed = find_outdated(store, plan), find_failed(store, part)
        with store.left_alone() as is_last:  # of shards that end together, one rebuilds the tables
            if is_last and not store.is_indexed():
                store.consolidate()
    return ExtractionSummary(
        finished=run.remaining() == 0,
        gave_up=run.has_given_up(),
        videos=len(part),
        stored_before=plan.stored,
        stored=run.stored,
        failed_now=run.failed,
        pairs=run.pairs,
        seconds=time.perf_counter() - began,
        failed=failed,
        outdated=outdated,
    )


@contextlib.contextmanager
def _store_errors(path: str) -> Iterator[None]:
    """Turn errors of the disk into StoreWriteError; remove a new store that has no video yet."""
    is_new = not (Path(path) / STORE_FILE).exists()
    try:
        yield
    except Exception as error:
        if is_new:
            with contextlib.suppress(OSError, OperationError):
                take_back(Path(path))
        if isinstance(error, OSError):
            raise StoreWriteError(
                f"store {path} cannot be written ({error.strerror or error}); mend it and run again"
            ) from error
        raise


class _Run:
    """The tasks of a plan on their way through the workers, and what became of them so far."""

    def __init__(
        self,
        store: FlowStore,
        settings: ExtractionSettings,
        plan: ExtractionPlan,
        max_failures: int | None,
        listener: Listener,
    ) -> None:
        self.stored = self.failed = self.pairs = 0
        self._store = store
        self._settings = settings
        self._tasks = plan.tasks
        self._total_bytes = sum(task.source_bytes for task in plan.tasks)
        self._max_failures = max_failures
        self._listener = listener
        self._waiting = deque(plan.tasks)
        self._tries: Counter[str] = Counter()
        self._suspects: set[str] = set()  # ids of videos that are tried again alone
        self._done_bytes = 0
        self._shown = -_SHOW_INTERVAL_S

    def remaining(self) -> int:
        """Return how many videos are neither stored nor failed."""
        return len(self._tasks) - self.stored - self.failed

    def has_given_up(self) -> bool:
        """Return whether more videos have failed than may, and some remain."""
        limit = self._max_failures
        return limit is not None and self.failed > limit and self.remaining() > 0

    @contextlib.contextmanager
    def open_workers(self, place: Place, extract: Extract) -> Iterator[Workers]:
        """Yield the workers at `place`."""
        settings, listener = self._settings, self._listener
        if isinstance(place, InProcess | LocalProcesses):
            prepare(settings.backend, listener.announce)  # compiled once, not by each process
        if isinstance(place, InProcess):
            with ThreadWorkers(settings, extract, listener.should_stop) as workers:
                yield workers
            return
        # Dask is loaded here only. Its workers may have been started in any folder.
        from flowcpc.pipeline.cluster.dask_cluster import open_cluster
        from flowcpc.pipeline.cluster.dask_workers import ClusterJob

        videos, store = (str(Path(path).absolute()) for path in (settings.videos, settings.store))
        settings = dataclasses.replace(settings, videos=videos, store=store)
        with made_probe(settings, self._tasks[0]) as probe:
            job = ClusterJob(settings, probe, extract, self.remaining, listener)
            with open_cluster(place, job) as cluster:
                yield cluster

    def extract_videos(self, workers: Workers, run_file: RunFile) -> None:
        """Keep the workers busy until no video remains, too many have failed, or it must stop."""
        began = time.perf_counter()
        self._show(workers, began, run_file)
        while self.remaining() and not self.has_given_up():
            is_stopping = self._listener.should_stop()
            if not is_stopping:
                self._start_videos(workers)
            ended = list(workers.wait())
            for task in ended:
                outcome = self._settle(task)
                if outcome is not None and not self.has_given_up():
                    self._count(task, outcome)
                    self._show(workers, began, run_file)
            if time.monotonic() - self._shown >= _SHOW_INTERVAL_S:
                self._show(workers, began, run_file)
            if is_stopping and not ended:
                break

    def _start_videos(self, workers: Workers) -> None:
        while self._waiting:
            alone = self._waiting[0].video.video_id in self._suspects
            if not workers.can_start(alone):
                break
            workers.start(self._waiting.popleft(), alone)

    def _settle(self, ended: EndedTask) -> Outcome | None:
        """Return the outcome of a video, or None if it is tried again."""
        video, outcome = ended.task.video, ended.outcome
        if outcome is not None and not outcome.may_pass:
            return outcome
        if ended.is_suspect:
            self._suspects.add(video.video_id)
        if outcome is not None or ended.cause_of_death is not None:
            self._tries[video.video_id] += 1
        if self._tries[video.video_id] < TRIES:
            self._waiting.appendleft(ended.task)
            return None
        if outcome is None:
            cause = ended.cause_of_death() if ended.cause_of_death else "cause unknown"
            reason = f"killed its worker process {TRIES} times ({cause})"
            stamp = source_stamp(Path(self._settings.videos, video.path))
            record_failure(self._store, video, KIND_MACHINE, reason, stamp)
            outcome = Outcome(video.video_id, FAILED, reason=reason)
        return outcome

    def _count(self, ended: EndedTask, outcome: Outcome) -> None:
        self._done_bytes += ended.task.source_bytes
        if outcome.status == STORED:
            self.stored += 1
            self.pairs += outcome.flows
        else:
            self.failed += 1

    def _show(self, workers: Workers, began: float, run_file: RunFile) -> None:
        self._shown = time.monotonic()
        states = workers.states()
        settled = self.stored + self.failed
        fields: dict[str, float | str] = {
            "videos": f"{settled}/{len(self._tasks)}",
            "failed": f"{self.failed}",
            "pairs/s": workers.pairs / (time.perf_counter() - began),
        }
        busy = [state for state in states if state.videos]
        if len(states) > 1:
            fields["workers"] = f"{len(busy)} of {len(states)} busy"
        longest = min(busy, key=lambda state: state.since, default=None)
        if longest is not None and (seconds := time.time() - longest.since) > _LONG_S:
            fields["longest"] = f"{longest.videos[0]} {seconds:.0f} s on {longest.host}"
        self._listener.progress(self._done_bytes, self._total_bytes, fields)
        self._listener.show_lines([_worker_line(state) for state in states])
        run_file.tell(settled, states)


def _worker_line(worker: WorkerState) -> str:
    if not worker.videos:
        return f"  {worker.host} {worker.pid}: idle, {worker.pairs_per_second:.3g} pairs/s"
    more = f" and {len(worker.videos) - 1} more" if len(worker.videos) > 1 else ""
    seconds = max(0.0, time.time() - worker.since)
    return (
        f"  {worker.host} {worker.pid}: {worker.videos[0]}{more}, {seconds:.0f} s, "
        f"{worker.pairs_per_second:.3g} pairs/s"
    )
