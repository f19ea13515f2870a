"""Heartbeats: each extraction keeps a small file with its progress for `flowcpc status`.

Nothing depends on it. The run deletes its file at the end. If a run was killed, the next run that
is alone on the store deletes the file.
"""

import contextlib
import dataclasses
import os
import platform
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from flowcpc.stores import layout
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.records.contract import RunState, WorkerState
from flowcpc.stores.records.record_file import read_record, write_record

EVERY_S = 3.0


class RunFile:
    """The heartbeat file of a run over `videos`, a context manager. Errors do not stop the run."""

    def __init__(self, store: Path, videos: int) -> None:
        self._path = store / layout.RUNS_FOLDER / f"{uuid.uuid4().hex}.json"
        self._began, self._written, self._videos = time.time(), -EVERY_S, videos

    def __enter__(self) -> "RunFile":
        self.tell(0, ())
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def tell(self, settled: int, workers: Sequence[WorkerState]) -> None:
        """Write the progress, unless it was written a moment ago."""
        if time.monotonic() - self._written < EVERY_S:
            return
        self._written = time.monotonic()
        process, times = (platform.node(), os.getpid()), (self._began, time.time())
        state = RunState(*process, *times, self._videos, settled, tuple(workers))
        with contextlib.suppress(OSError):
            write_record(self._path, dataclasses.asdict(state))


def read_runs(store: Path) -> tuple[RunState, ...]:
    """Return the runs that have a heartbeat file, the oldest first."""
    runs = []
    for path in (store / layout.RUNS_FOLDER).glob("*.json"):
        # A run may end meanwhile, and another release may write other fields.
        with contextlib.suppress(FileNotFoundError, DamagedStoreError, KeyError, TypeError):
            values = read_record(path)
            workers = [
                WorkerState(**{**worker, "videos": tuple(worker["videos"])})
                for worker in values["workers"]
            ]
            runs.append(RunState(**{**values, "workers": tuple(workers)}))
    return tuple(sorted(runs, key=lambda run: (run.began, run.host, run.pid)))
