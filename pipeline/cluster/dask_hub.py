"""A Dask cluster: its start, and what travels between this process and the workers. The only file that imports dask.

The ledger is on disk, never in the scheduler: a worker commits its own video, so a client, a worker or a scheduler may die at any moment and
the next run goes on from the records. Every task is pinned to its worker, so that who had what in hand when a worker died is known, and what
comes of it travels as an event, so that nothing has to be fetched from a worker that may be gone.
"""

import contextlib
import dataclasses
import functools
import os
import queue
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import dask
import distributed
from distributed import Client, Future, SpecCluster, Status
from distributed.utils import silence_logging_cmgr

from flowcpc.pipeline.cluster.dispatch import (
    ENDED,
    EXAMINED,
    JOINED,
    LEAVING,
    LEFT,
    OUTCOME,
    PAIRS,
    UNWRITABLE,
    Message,
    end_of_process,
)
from flowcpc.pipeline.cluster.places import (
    WAIT_S,
    ExistingScheduler,
    LocalGpus,
    LocalProcesses,
    SlurmJobs,
    gpu_workers,
    thread_limits,
)
from flowcpc.pipeline.cluster.preflight import Probe, check_scheduler, examine, versions
from flowcpc.pipeline.cluster.slurm import JobWatch, check_job, check_slurm, job_options
from flowcpc.pipeline.cluster.worker_signals import leave, leave_on_signals, leaving
from flowcpc.pipeline.datasets.sources import Video
from flowcpc.pipeline.decoding.limits import Preempted
from flowcpc.pipeline.extraction.extract import (
    ExtractionSettings,
    Outcome,
    StoreWriteError,
    extract_video,
)
from flowcpc.pipeline.extraction.ledger import VideoTask
from flowcpc.pipeline.tvl1.batching import videos_at_a_time
from flowcpc.pipeline.tvl1.solver import available_threads, devices
from flowcpc.stores.base.errors import OperationError, first_line
from flowcpc.stores.base.signals import held_back

Extract = Callable[..., Outcome]

_CONNECT_S = 30.0
_CLOSE_S = 60.0  # a cluster that takes longer to close is left to its scheduler
_SILENT = 51  # above all levels of logging
_ASK_S = 3.0
_PAIRS_EVERY_S = 1.0
_LEAVING_TOPIC = "flowcpc-leaving"
_CONFIG = {
    "distributed.admin.log-length": 100,
    "distributed.comm.timeouts.connect": f"{_CONNECT_S:g}s",
    "distributed.worker.profile.enabled": False,
    # A worker holds no data of Dask's; a paused one would keep the video that was meant for it.
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "logging.distributed": "critical",
}


@contextlib.contextmanager
def started_hub(
    place: LocalProcesses | LocalGpus | ExistingScheduler | SlurmJobs,
    *,
    threads: int,
    needed: Callable[[], int],
    announce: Callable[[str], None],
    extract: Extract = extract_video,
) -> Iterator["DaskHub"]:
    """Yield a hub of the cluster at `place`: start it, or connect to it, and end it or leave it afterwards.

    `threads` are those of each process of this machine; `needed` says how many workers have something to do. `extract` is what a worker does
    with a video, with the arguments of `extract_video`.

    Raises ValueError for a place that cannot be had here, OperationError when its scheduler does not answer or has other software.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(_CONFIG))
        stack.enter_context(silence_logging_cmgr(_SILENT))  # what matters is said in sentences
        trouble: Callable[[], str] = str
        if isinstance(place, ExistingScheduler):
            client = _connected(place)
        else:
            with held_back():  # also: a start that is broken off leaves processes behind
                cluster, trouble = _started_cluster(place, threads, needed)
                stack.callback(_close, cluster, timeout=_CLOSE_S)
                client = Client(cluster, set_as_default=False)
        stack.callback(_close, client, timeout=2)
        address = str(client.scheduler_info(n_workers=0)["address"])
        check_scheduler(address, lambda: client.run_on_scheduler(versions))
        announce(f"scheduler {address}, dashboard {client.dashboard_link}")
        hub = DaskHub(
            client,
            f"the scheduler at {address}",
            getattr(place, "wait_s", WAIT_S),
            trouble,
            extract,
        )
        try:
            yield hub
        finally:
            hub.leave()


class DaskHub:
    """The messages of one run to and from the workers of `client`; a `dispatch.Hub`."""

    def __init__(
        self,
        client: Client,
        name: str,
        wait_s: float | None,
        trouble: Callable[[], str],
        extract: Extract,
    ) -> None:
        self.messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.name = name
        self.wait_s = wait_s
        self._client = client
        self._trouble = trouble
        self._extract = extract
        self._gpu_shares: dict[str, float] = {}
        self._topic = f"flowcpc-{uuid.uuid4().hex}"
        self._topics = {
            "all": self._on_cluster_event,
            _LEAVING_TOPIC: self._on_leaving,
            self._topic: self._on_note,
        }
        for topic, handler in self._topics.items():
            client.subscribe_topic(topic, handler)
        for plugin in (_LeaveCleanly(), _LeaveOnUserSignal()):
            with contextlib.suppress(
                Exception
            ):  # a worker that cannot load it fails its examination, which says why
                client.register_plugin(plugin)
        for address in client.scheduler_info()["workers"]:
            self.messages.put((JOINED, address, {}))

    def examine(self, address: str, probe: Probe, backend: str) -> object:
        """Ask a worker to examine itself."""
        return self._submit(
            address, ("flowcpc-examine", address), _examine_on_worker, probe, backend
        )

    def extract(
        self, address: str, settings: ExtractionSettings, task: VideoTask, attempt: int
    ) -> object:
        """Give a video to a worker."""
        key = ("extract", task.video.video_id, attempt)
        return self._submit(address, key, _extract_on_worker, self._extract, settings, task.video)

    def release(self, handle: object) -> None:
        """Take back what was given."""
        if isinstance(handle, Future):
            handle.release()

    def exit_message(self, nanny: str | None, pid: int) -> str:
        """Return what the nanny of a worker process saw of its end; empty where there is none, or it is gone as well."""
        deadline = time.monotonic() + _ASK_S
        while nanny and time.monotonic() < deadline:
            with contextlib.suppress(
                Exception
            ):  # whatever happened to that machine, the cause stays unknown
                log = self._client.sync(self._log_of, nanny, callback_timeout=_ASK_S)
                if words := end_of_process(log, pid):
                    return words
            time.sleep(0.2)
        return ""

    def leave(self) -> None:
        """Hear no more; the scheduler would else tell this client of its own end."""
        for topic in self._topics:
            with contextlib.suppress(Exception):  # the scheduler may be gone
                self._client.unsubscribe_topic(topic)

    async def _log_of(self, nanny: str) -> list[str]:
        assert self._client.scheduler is not None
        answer = await self._client.scheduler.broadcast(
            msg={"op": "get_logs", "n": 100}, workers=[nanny]
        )
        return [line for _, line in answer[nanny]]

    def trouble(self) -> str:
        """Return why the cluster cannot go on, in words; empty where it can."""
        if self._client.status != "running":
            return f"{self.name} is gone"
        return self._trouble()

    def _submit(
        self, address: str, key: tuple[Any, ...], function: Callable[..., None], *arguments: Any
    ) -> object:
        def ended(future: Future[None]) -> None:
            error: BaseException | None = None
            try:
                error = future.exception() if future.status == "error" else None
            except (
                Exception
            ) as unreadable:  # an error that cannot be carried here is one all the same
                error = unreadable
            # What ends with its worker, or with the scheduler, is told by these.
            if future.status == "finished" or (
                error is not None and not isinstance(error, distributed.KilledWorker)
            ):
                words = (
                    f"{type(error).__name__}: {str(error).partition(chr(10))[0]}" if error else ""
                )
                self.messages.put((ENDED, address, {"handle": future, "error": words}))

        future = self._client.submit(
            function,
            self._topic,
            *arguments,
            key=(
                *key,
                self._topic,
            ),  # two runs on one scheduler must not take each other's tasks for their own
            workers=[address],
            resources={"GPU": self._gpu_shares[address]} if address in self._gpu_shares else None,
            pure=False,
        )
        future.add_done_callback(ended)
        return future

    def _on_cluster_event(self, event: tuple[float, dict[str, Any]]) -> None:
        happened = event[1]
        if happened.get("action") == "add-worker":
            self.messages.put((JOINED, happened["worker"], {}))
        elif happened.get("action") == "remove-worker":
            self._gpu_shares.pop(happened["worker"], None)
            self.messages.put((LEFT, happened["worker"], {"expected": happened["expected"]}))

    def _on_leaving(self, event: tuple[float, str]) -> None:
        self.messages.put((LEAVING, event[1], {}))

    def _on_note(self, event: tuple[float, tuple[int, str, dict[str, Any]]]) -> None:
        kind, address, values = event[1]
        if kind == EXAMINED and values["gpu"]:
            self._gpu_shares[address] = (1 - 1e-6) / values[
                "slots"
            ]  # Dask takes shares off one by one, and rounds
        self.messages.put((kind, address, values))


def _examine_on_worker(topic: str, probe: Probe, backend: str) -> None:
    worker = distributed.get_worker()
    report = examine(probe, backend)
    slots = 1 if "problem" in report else videos_at_a_time(backend, worker.state.nthreads)
    report |= {"nanny": worker.nanny, "gpu": "GPU" in worker.state.total_resources, "slots": slots}
    worker.log_event(topic, (EXAMINED, worker.address, report))


def _extract_on_worker(
    topic: str, extract: Extract, settings: ExtractionSettings, video: Video
) -> None:
    """Extract one video, on all threads of this worker unless it has several in hand, and say what became of it."""
    worker = distributed.get_worker()
    key = worker.get_current_task()
    unsaid, said = 0, time.monotonic()

    def say(kind: int, **values: Any) -> None:
        worker.log_event(topic, (kind, worker.address, values))

    def on_pairs(pairs: int) -> None:
        nonlocal unsaid, said
        unsaid += pairs
        if time.monotonic() - said >= _PAIRS_EVERY_S:
            say(PAIRS, video_id=video.video_id, pairs=unsaid)
            unsaid, said = 0, time.monotonic()

    def should_stop() -> bool:
        task = worker.state.tasks.get(key)
        return (
            leaving.is_set() or task is None or task.state == "cancelled"
        )  # nobody waits for it any more

    try:
        cores = worker.state.nthreads
        settings = dataclasses.replace(
            settings, threads=cores // videos_at_a_time(settings.backend, cores)
        )
        outcome = extract(settings, video, on_pairs, should_stop=should_stop)
    except Preempted:
        return
    except StoreWriteError as error:
        say(UNWRITABLE, reason=str(error))
    else:
        say(OUTCOME, **dataclasses.asdict(outcome))


class _LeaveCleanly(distributed.WorkerPlugin):
    """Lets a worker that is asked to go drop its video first, so that nothing half done is left and nobody is blamed."""

    name = "flowcpc-leave-cleanly"

    def setup(self, worker: distributed.Worker) -> None:
        """Take the signals, where this is a process of its own."""
        if threading.current_thread() is not threading.main_thread():
            return
        close = functools.partial(
            worker.loop.add_callback_from_signal, worker.close_gracefully, restart=False
        )
        leave_on_signals(
            close, alone=not worker.nanny
        )  # `dask worker` without a nanny has taken the others

    def teardown(self, worker: distributed.Worker) -> None:
        """Drop the video in hand if the worker closes."""
        if worker.status in (Status.closing, Status.closing_gracefully):
            worker.log_event(_LEAVING_TOPIC, worker.address)
            leave()


class _LeaveOnUserSignal(distributed.NannyPlugin):
    """Lets SIGUSR1, which a queue may send before it preempts, mean to `dask worker` what SIGTERM means."""

    name = "flowcpc-leave-on-user-signal"

    def setup(self, nanny: distributed.Nanny) -> None:
        """Take the signal, where the nanny is a process of its own."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def _connected(place: ExistingScheduler) -> Client:
    where = {"address": place.address} if place.address else {"scheduler_file": place.file}
    try:
        return Client(**where, timeout=min(place.wait_s, _CONNECT_S), set_as_default=False)
    except Exception as error:  # time-outs, refusals, other protocols
        raise OperationError(
            f"no Dask scheduler answers at {place} ({first_line(error)}); start it with: dask scheduler"
        ) from error


def _close(what: Client | SpecCluster, **options: Any) -> None:
    with (
        held_back(),
        contextlib.suppress(Exception),
    ):  # a scheduler that is gone cannot be taken leave of
        what.close(**options)


def _started_cluster(
    place: LocalProcesses | LocalGpus | SlurmJobs, threads: int, needed: Callable[[], int]
) -> tuple[SpecCluster, Callable[[], str]]:
    """Return a cluster of our own, and what says whether it is in trouble: `str`, the empty one, never does."""
    if isinstance(place, SlurmJobs):
        return _slurm_cluster(place, needed)
    alone: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    if isinstance(place, LocalProcesses):
        alone |= {"processes": True, "silence_logs": _SILENT, "env": thread_limits(threads)}
        return distributed.LocalCluster(place.count, threads_per_worker=threads, **alone), str
    shared = {"host": "127.0.0.1", "silence_logs": _SILENT}
    options = gpu_workers(devices(), available_threads()).items()
    workers = {name: {"cls": distributed.Nanny, "options": own | shared} for name, own in options}
    scheduler = {"cls": distributed.Scheduler, "options": alone}
    return SpecCluster(workers, scheduler, silence_logs=_SILENT), str


class _AsManyAsNeeded(distributed.Adaptive):
    """As many workers as have something to do: a queue's own idea of that would see the videos in hand alone."""

    def __init__(self, *arguments: Any, needed: Callable[[], int], **options: Any) -> None:
        self._needed = needed
        super().__init__(*arguments, **options)

    async def target(self) -> int:
        return self._needed()


def _slurm_cluster(
    place: SlurmJobs, needed: Callable[[], int]
) -> tuple[SpecCluster, Callable[[], str]]:
    check_slurm()
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ValueError(
            "--cluster slurm needs dask-jobqueue; install it with: pip install 'flowcpc[slurm]'"
        ) from error
    options = job_options(place, thread_limits(place.cores))
    cluster = SLURMCluster(
        **options, scheduler_options={"dashboard_address": ":0"}, silence_logs=_SILENT
    )
    try:
        check_job(cluster.job_script())  # what the queue refuses later is not heard
    except BaseException:
        cluster.close()
        raise
    cluster.adapt(
        Adaptive=_AsManyAsNeeded,
        minimum=place.minimum,
        maximum=place.maximum,
        needed=needed,
        interval="2s",
    )
    return cluster, JobWatch(cluster, place.logs)
