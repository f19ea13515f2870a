"""What runs in a Dask worker process: its examination, the extraction of a video, a clean stop."""

import contextlib
import dataclasses
import functools
import logging
import os
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
_leaving = threading.Event()  # this worker process was asked to stop


@dataclasses.dataclass(frozen=True)
class PairsDone:
    """More pairs of a video in flight are done."""

    video_id: str
    pairs: int


# Messages of a worker to the client. They travel as Dask events: no result has to be fetched from
# a worker that may be gone.
Message = WorkerReport | PairsDone | Outcome
_CLASSES: dict[str, Any] = {cls.__name__: cls for cls in (WorkerReport, PairsDone, Outcome)}


def decode_message(event: tuple[str, str, dict[str, Any]]) -> tuple[str, Message]:
    """Return the worker's address and its message, from the event that carried them.

    A worker with another flowcpc may send other fields; its versions tell why it cannot be used.
    """
    name, address, values = event
    known = {field.name for field in dataclasses.fields(_CLASSES[name])}
    return address, _CLASSES[name](**{key: values[key] for key in values if key in known})


def _send(worker: distributed.Worker, topic: str, message: Message) -> None:
    event = (type(message).__name__, worker.address, dataclasses.asdict(message))
    worker.log_event(topic, event)


def examine_worker(topic: str, probe: Probe, backend: str) -> None:
    """Send a WorkerReport about this worker to `topic`."""
    worker = distributed.get_worker()
    report = examine(probe, backend)
    slots = 1 if report.problem else videos_at_a_time(backend, worker.state.nthreads)
    has_gpu = "GPU" in worker.state.total_resources
    nanny = str(worker.nanny) if worker.nanny else None  # its address
    report = dataclasses.replace(report, nanny=nanny, slots=slots, has_gpu=has_gpu)
    _send(worker, topic, report)


def extract_on_worker(
    topic: str, extract: Extract, settings: ExtractionSettings, video: Video
) -> None:
    """Extract one video with this worker's share of threads and send PairsDone, then the Outcome.

    Sends no Outcome when the worker stops, or the client released the task. Raises StoreWriteError.
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
    with contextlib.suppress(Preempted):
        _send(worker, topic, extract(settings, video, on_pairs, should_stop=should_stop))


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
        close = functools.partial(
            worker.loop.add_callback_from_signal, worker.close_gracefully, restart=False
        )

        def handle(*_: object) -> None:
            _drop_videos()
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                close()

        signal.signal(signal.SIGUSR1, handle)
        if worker.nanny:
            signal.signal(signal.SIGTERM, handle)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # held back while the process started

    def teardown(self, worker: distributed.Worker) -> None:
        """Drop the videos in flight if the worker closes."""
        if worker.status in (Status.closing, Status.closing_gracefully):
            worker.log_event(LEAVING_TOPIC, worker.address)
            _drop_videos()


class StopOnUserSignal(distributed.NannyPlugin):
    """Makes a nanny treat SIGUSR1, which queues send before they preempt a job, as SIGTERM."""

    name = "flowcpc-stop-on-user-signal"

    def setup(self, nanny: distributed.Nanny) -> None:
        """Handle the signal if the nanny is a process of its own."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def _drop_videos() -> None:
    _leaving.set()
    for name in ("asyncio", "tornado.application"):  # connections that end are no error any more
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
