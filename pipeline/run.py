"""A whole extraction: plan it from the store's records, extract the videos, rebuild the tables."""

import contextlib
import dataclasses
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flowcpc.pipeline.cluster.places import InProcess, LocalProcesses, Place
from flowcpc.pipeline.cluster.preflight import made_probe
from flowcpc.pipeline.cluster.shards import Shard, videos_of_shard
from flowcpc.pipeline.cluster.workers import EndedTask, Extract, ThreadWorkers
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.extraction import extract as extraction
from flowcpc.pipeline.extraction import ledger
from flowcpc.pipeline.extraction.extract import ExtractionSettings
from flowcpc.pipeline.tvl1.solver import prepare
from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.base.listener import SILENT, Listener
from flowcpc.stores.flow_store import FlowStore, create_store
from flowcpc.stores.layout import STORE_FILE
from flowcpc.stores.records.contract import WorkerState
from flowcpc.stores.records.garbage import take_back
from flowcpc.stores.records.run_files import RunFile

if TYPE_CHECKING:
    from flowcpc.pipeline.cluster.dask_workers import DaskWorkers

    Workers = ThreadWorkers | DaskWorkers

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
    extract: Extract = extraction.extract_video,
    listener: Listener = SILENT,
) -> ledger.ExtractionSummary:
    """Extract the flow of every video that the store lacks, at `place`, and rebuild the index.

    A `shard` (I, N) is the I-th of N parts of `videos`, all of which the store is meant to hold.
    `whole_dataset` are the ids of all videos of the data set, when `videos` are a part of it
    (`--limit`). Videos in `again` are extracted even if the store has them; `retry_failed` tries
    again those that failed because of their file. The run stops when more than `max_failures`
    videos have failed in it. `extract` is what is done with a video, with the arguments of
    `extract_video`. The progress of `listener` counts bytes of video files.

    Raises ValueError for a store with other numerics or a place that is not available here,
    OperationError when the cluster cannot be used or is lost, StoreWriteError (one of these) when
    the store cannot be written.
    """
    began = time.perf_counter()
    part = list(videos) if shard is None else videos_of_shard(videos, Path(settings.videos), shard)
    with _store_errors(settings.store):
        store = create_store(settings.store, settings.numerics(), settings.array_format)
        store.collect_garbage()
        with store.in_use():
            # Again: a failed run that had created it may have removed it before this one held it.
            store = create_store(settings.store, settings.numerics(), settings.array_format)
            ledger.refuse_other_names(store, videos)
            everything = whole_dataset or {video.video_id for video in videos}
            store.set_dataset([video.to_record() for video in videos], everything)
            plan = ledger.plan_extraction(
                store, settings, part, again=again, retry_failed=retry_failed
            )
            listener.announce(plan.describe())
            run = _Run(store, settings, plan, max_failures, listener)
            run.extract_at(place, extract)
            run.summary.videos, run.summary.failed = len(part), ledger.find_failed(store, part)
            # A commit removes the failure.
            run.summary.outdated = ledger.find_reasons(store, plan.changed)
        with store.left_alone() as is_last:  # of shards that end together, one rebuilds the tables
            if is_last and not store.is_indexed():
                store.consolidate()
    run.summary.finished, run.summary.gave_up = run.remaining() == 0, run.has_given_up()
    run.summary.seconds = time.perf_counter() - began
    return run.summary


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
            raise extraction.StoreWriteError.of(path, error) from error
        raise


@dataclasses.dataclass
class _Run:
    """The tasks of a plan on their way through the workers, and what became of them so far."""

    store: FlowStore
    settings: ExtractionSettings
    plan: ledger.ExtractionPlan
    max_failures: int | None
    listener: Listener

    def __post_init__(self) -> None:
        self.summary = ledger.ExtractionSummary(stored_before=self.plan.stored)
        self._waiting = deque(self.plan.tasks)
        self._tries: Counter[str] = Counter()
        self._suspects: set[str] = set()  # ids of videos that are tried again alone
        self._done_bytes = 0
        self._total_bytes = sum(task.source_bytes for task in self.plan.tasks)
        self._shown = -_SHOW_INTERVAL_S

    def remaining(self) -> int:
        return len(self.plan.tasks) - self.summary.stored - self.summary.failed_now

    def has_given_up(self) -> bool:
        limit = self.max_failures
        return limit is not None and self.summary.failed_now > limit and self.remaining() > 0

    def extract_at(self, place: Place, extract: Extract) -> None:
        if not self.plan.tasks or self.listener.should_stop():
            return
        try:
            with (
                RunFile(self.store.path, len(self.plan.tasks)) as run_file,
                self._open_workers(place, extract) as workers,
            ):
                self.extract_videos(workers, run_file)
        except OperationError as error:
            # Workers that start while everything is asked to stop fail in their own ways.
            if isinstance(error, extraction.StoreWriteError) or not self.listener.should_stop():
                raise

    @contextlib.contextmanager
    def _open_workers(self, place: Place, extract: Extract) -> Iterator["Workers"]:
        settings, listener = self.settings, self.listener
        if isinstance(place, InProcess | LocalProcesses):
            prepare(settings.backend, listener.announce)  # compiled once, not by each process
        if isinstance(place, InProcess):
            workers = ThreadWorkers(settings, extract, listener.should_stop)
            with contextlib.closing(workers):
                yield workers
            return
        # Dask is loaded here only. Its workers may have been started in any folder.
        from flowcpc.pipeline.cluster.dask_cluster import open_cluster
        from flowcpc.pipeline.cluster.dask_workers import ClusterJob

        videos, store = (str(Path(path).absolute()) for path in (settings.videos, settings.store))
        settings = dataclasses.replace(settings, videos=videos, store=store)
        with made_probe(settings, self.plan.tasks[0]) as probe:
            job = ClusterJob(settings, probe, extract, self.remaining, listener)
            with open_cluster(place, job) as cluster:
                yield cluster

    def extract_videos(self, workers: "Workers", run_file: RunFile) -> None:
        """Keep the workers busy until no video remains, too many have failed, or it must stop."""
        began = time.perf_counter()
        self._show(workers, began, run_file)
        while self.remaining() and not self.has_given_up():
            is_stopping = self.listener.should_stop()
            while self._waiting and not is_stopping:
                next_task = self._waiting[0]
                if not workers.start(next_task, next_task.video.video_id in self._suspects):
                    break
                self._waiting.popleft()
            ended = list(workers.wait())
            for task in ended:
                if not self.has_given_up():
                    self._settle(task)
            if ended or time.monotonic() - self._shown >= _SHOW_INTERVAL_S:
                self._show(workers, began, run_file)
            if is_stopping and not ended:
                break

    def _settle(self, ended: EndedTask) -> None:
        """Count a video that is stored or failed, or let it be tried again."""
        video, outcome = ended.task.video, ended.outcome
        if ended.is_suspect:
            self._suspects.add(video.video_id)
        if outcome is None or outcome.may_pass:
            self._tries[video.video_id] += bool(outcome or ended.cause_of_death)
            if self._tries[video.video_id] < TRIES:
                self._waiting.appendleft(ended.task)
                return
        if outcome is None:
            cause = ended.cause_of_death() if ended.cause_of_death else "cause unknown"
            reason = f"killed its worker process {TRIES} times ({cause})"
            stamp = extraction.source_stamp(Path(self.settings.videos, video.path))
            extraction.record_failure(self.store, video, extraction.KIND_MACHINE, reason, stamp)
        self._done_bytes += ended.task.source_bytes
        if outcome is not None and outcome.status == extraction.STORED:
            self.summary.stored += 1
            self.summary.pairs += outcome.flows
        else:
            self.summary.failed_now += 1

    def _show(self, workers: "Workers", began: float, run_file: RunFile) -> None:
        self._shown = time.monotonic()
        states, videos = workers.states(), len(self.plan.tasks)
        settled = videos - self.remaining()
        fields: dict[str, float | str] = {
            "videos": f"{settled}/{videos}",
            "failed": f"{self.summary.failed_now}",
            "pairs/s": workers.pairs / (time.perf_counter() - began),
        }
        busy = [state for state in states if state.videos]
        if len(states) > 1:
            fields["workers"] = f"{len(busy)} of {len(states)} busy"
        longest = min(busy, key=lambda state: state.since, default=None)
        if longest is not None and (seconds := time.time() - longest.since) > _LONG_S:
            fields["longest"] = f"{longest.videos[0]} {seconds:.0f} s on {longest.host}"
        self.listener.progress(self._done_bytes, self._total_bytes, fields)
        self.listener.show_lines([_worker_line(state) for state in states])
        run_file.tell(settled, states)


def _worker_line(worker: WorkerState) -> str:
    name, rate = f"  {worker.host} {worker.pid}:", f"{worker.pairs_per_second:.3g} pairs/s"
    if not worker.videos:
        return f"{name} idle, {rate}"
    more = f" and {len(worker.videos) - 1} more" if len(worker.videos) > 1 else ""
    return f"{name} {worker.videos[0]}{more}, {max(0.0, time.time() - worker.since):.0f} s, {rate}"
