"""Runs that are at work on a store, and what their workers have in hand: each run keeps a small file of it for `flowcpc status`.

It informs and decides nothing. The run takes it away at its end; one that was killed leaves it, ever older, until the next run that holds the
store alone collects it.
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
from flowcpc.stores.records import record_file

EVERY_S = 3.0
SILENT_S = 60.0  # a run that has said nothing for so long is over, or its machine hangs


@dataclasses.dataclass(frozen=True)
class WorkerState:
    """A process that extracts: `videos` are the ids that it has in hand, the first of them `since` (seconds since the epoch)."""

    host: str
    pid: int
    videos: tuple[str, ...]
    since: float
    pairs_per_second: float


@dataclasses.dataclass(frozen=True)
class RunState:
    """A run, as it was at `time`: it `began` (both seconds since the epoch) with `videos` to do, of which `settled` were stored or failed."""

    host: str
    pid: int
    began: float
    time: float
    videos: int
    settled: int
    workers: tuple[WorkerState, ...]

    def is_live(self, now: float) -> bool:
        """Return whether the run was heard of lately."""
        return now - self.time < SILENT_S


class RunFile:
    """The file of one run with `videos` to do; a context manager, in which it is there. A disk that takes no file ends no run."""

    def __init__(self, store: Path, videos: int) -> None:
        self._path = store / layout.RUNS_FOLDER / f"{uuid.uuid4().hex}.json"
        self._began = time.time()
        self._written = -EVERY_S
        self._videos = videos

    def __enter__(self) -> "RunFile":
        self.tell(0, ())
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def tell(self, settled: int, workers: Sequence[WorkerState]) -> None:
        """Write down how far the run is, unless that was done a moment ago."""
        if time.monotonic() - self._written < EVERY_S:
            return
        self._written = time.monotonic()
        state = RunState(
            platform.node(),
            os.getpid(),
            self._began,
            time.time(),
            self._videos,
            settled,
            tuple(workers),
        )
        with contextlib.suppress(OSError):
            record_file.write_record(self._path, dataclasses.asdict(state))


def read_runs(store: Path) -> tuple[RunState, ...]:
    """Return the runs that have a file, the oldest first."""
    runs = []
    for path in (store / layout.RUNS_FOLDER).glob("*.json"):
        with contextlib.suppress(
            FileNotFoundError, DamagedStoreError, KeyError, TypeError
        ):  # it ended meanwhile, or is of another release
            values = record_file.read_record(path)
            workers = tuple(
                WorkerState(**{**worker, "videos": tuple(worker["videos"])})
                for worker in values["workers"]
            )
            runs.append(RunState(**{**values, "workers": workers}))
    return tuple(sorted(runs, key=lambda run: (run.began, run.host, run.pid)))
