"""A Dask worker process: its examination, extraction of a video, clean stop, and cause of death."""

import contextlib
import dataclasses
import logging
import os
import re
import signal
import threading
import time
from typing import Any

import distributed
from distributed import Status

from flowcpc.pipeline.cluster.preflight import Probe, WorkerReport, examine
from flowcpc.pipeline.cluster.workers import Extract
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.decoding.limits import Preempted
from flowcpc.pipeline.extraction.extract import ExtractionSettings, Outcome
from flowcpc.pipeline.tvl1.batching import videos_at_a_time
from flowcpc.stores.base.signals import STOPS

LEAVING_TOPIC = "flowcpc-leaving"
_PAIRS_INTERVAL_S = 1.0
_LOG_S = 3.0  # how long to wait for the log of a nanny
_leaving = threading.Event()  # this worker process was asked to stop


@dataclasses.dataclass(frozen=True)
class PairsDone:
    """More pairs of a video in flight are done."""

    video_id: str
    pairs: int


# Messages of a worker to the client. They travel as Dask events: no result has to be fetched from
# a worker that may be gone.
Message = WorkerReport | PairsDone | Outcome


def decode_message(event: tuple[str, str, dict[str, Any]]) -> tuple[str, Message]:
    """Return the worker's address and its message, from the event that carried them.

    A worker with another flowcpc may send other fields; its versions tell why it cannot be used.
    """
    name, address, values = event
    (kind,) = (kind for kind in (WorkerReport, PairsDone, Outcome) if kind.__name__ == name)
    known = {field.name for field in dataclasses.fields(kind)}
    return address, kind(**{key: values[key] for key in values if key in known})


def _send(worker: distributed.Worker, topic: str, message: Message) -> None:
    event = (type(message).__name__, worker.address, dataclasses.asdict(message))
    worker.log_event(topic, event)


def examine_worker(topic: str, probe: Probe, backend: str) -> None:
    """Send a WorkerReport about this worker to `topic`."""
    worker = distributed.get_worker()
    report = examine(probe, backend)
    nanny = str(worker.nanny) if worker.nanny else None  # its address
    has_gpu = "GPU" in worker.state.total_resources
    slots = 1 if report.problem else videos_at_a_time(backend, worker.state.nthreads)
    _send(worker, topic, dataclasses.replace(report, nanny=nanny, slots=slots, has_gpu=has_gpu))


def extract_on_worker(
    topic: str, extract: Extract, settings: ExtractionSettings, video: Video
) -> None:
    """Extract one video with this worker's share of threads and send PairsDone, then the Outcome.

    Sends no Outcome when the worker leaves, or the client released the task; the client notes the
    end of the video when the worker has left. Raises StoreWriteError.
    """
    worker = distributed.get_worker()
    key = worker.get_current_task()
    unsent, sent = 0, time.monotonic()

    def on_pairs(pairs: int) -> None:
        nonlocal unsent, sent
        unsent += pairs
        if time.monotonic() - sent >= _PAIRS_INTERVAL_S:
            _send(worker, topic, PairsDone(video.video_id, unsent))
            unsent, sent = 0, time.monotonic()

    def should_stop() -> bool:
        task = worker.state.tasks.get(key)
        return _leaving.is_set() or task is None or task.state == "cancelled"

    cores = worker.state.nthreads
    threads = cores // videos_at_a_time(settings.backend, cores)
    settings = dataclasses.replace(settings, threads=threads)
    try:
        _send(worker, topic, extract(settings, video, on_pairs, should_stop=should_stop))
    except Preempted:
        if _leaving.is_set():
            worker.log_event(LEAVING_TOPIC, worker.address)


class StopCleanly(distributed.WorkerPlugin):
    """Makes a worker that is asked to stop drop its videos first: nothing is left half done."""

    name = "flowcpc-stop-cleanly"

    def setup(self, worker: distributed.Worker) -> None:
        """Handle the signals if the worker is a process of its own.

        Ctrl-C reaches every process of a terminal, and the client decides what it means. A worker
        without a nanny handles SIGTERM and Ctrl-C itself.
        """
        if threading.current_thread() is not threading.main_thread():
            return

        def handle(*_: object) -> None:
            _drop_videos()
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                worker.loop.add_callback_from_signal(worker.close_gracefully, restart=False)

        signal.signal(signal.SIGUSR1, handle)
        if worker.nanny:
            signal.signal(signal.SIGTERM, handle)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # held back while the process started

    def teardown(self, worker: distributed.Worker) -> None:
        if worker.status in (Status.closing, Status.closing_gracefully):
            worker.log_event(LEAVING_TOPIC, worker.address)
            _drop_videos()


class StopOnUserSignal(distributed.NannyPlugin):
    """Makes a nanny treat SIGUSR1, which queues send before they preempt a job, as SIGTERM."""

    name = "flowcpc-stop-on-user-signal"

    def setup(self, nanny: distributed.Nanny) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def _drop_videos() -> None:
    _leaving.set()
    for name in ("asyncio", "tornado.application"):  # connections that end are no error any more
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def cause_of_death(client: distributed.Client, worker: WorkerReport) -> str:
    """Return how and where a worker process died, as far as the log of its nanny (if any) says."""
    process = rf"(?:Worker process {worker.pid}|\(pid={worker.pid}\))"

    async def read_log() -> str:
        assert client.scheduler is not None
        request = {"op": "get_logs", "n": 100}
        answer = await client.scheduler.broadcast(msg=request, workers=[worker.nanny])
        return "\n".join(line for _, line in answer[worker.nanny])

    deadline = time.monotonic() + _LOG_S
    while worker.nanny and time.monotonic() < deadline:
        with contextlib.suppress(Exception):  # its machine may be gone too
            log = client.sync(read_log, callback_timeout=_LOG_S)
            if ends := re.findall(rf"{process} ((?:was killed|exited|exceeded)[^.\n]*)", log):
                return f"{', '.join(dict.fromkeys(ends))}, on {worker.host}"
        time.sleep(0.2)
    return f"cause unknown, on {worker.host}"
