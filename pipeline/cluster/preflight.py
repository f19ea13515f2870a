"""Checks before the first video: every process has the same software and sees the same files."""

import contextlib
import dataclasses
import functools
import hashlib
import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import cv2

from flowcpc.pipeline.extraction.extract import ExtractionSettings
from flowcpc.pipeline.extraction.ledger import VideoTask
from flowcpc.pipeline.tvl1.solver import prepare
from flowcpc.stores.base.atomic import TEMPORARY_SUFFIX
from flowcpc.stores.base.errors import OperationError

_PACKAGES = ("numpy", "numba", "zarr", "h5py", "distributed")
_SAME_PATHS = "every machine must see the store and the videos under the same paths"
_PATIENCE_S = 5.0  # until one machine sees what another one wrote


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that must agree; flowcpc's includes a hash of its source files."""
    package = Path(__file__).parents[2]
    folders = package / "pipeline", package / "stores"
    sources = hashlib.sha256()
    for file in sorted(file for folder in folders for file in folder.rglob("*.py")):
        sources.update(file.name.encode() + file.read_bytes())
    return {
        "flowcpc": f"{metadata.version('flowcpc')} ({sources.hexdigest()[:8]})",
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: metadata.version(name) for name in _PACKAGES},
        "opencv": cv2.__version__,
    }


def differences(remote: Mapping[str, str]) -> str:
    """Return in words how another process's versions differ from this one's; "" if they agree."""
    return ", ".join(
        f"{name} is {remote.get(name)} there and {version} here"
        for name, version in versions().items()
        if remote.get(name) != version
    )


def check_scheduler(address: str, remote_versions: Callable[[], Mapping[str, str]]) -> None:
    """Raise OperationError if a scheduler cannot read our tasks; they would wait for ever."""
    try:
        different = differences(remote_versions())
        problem = f"has other software ({different}); install the same there and restart it"
    except Exception as error:
        different = f"{type(error).__name__}: {error}"
        problem = f"cannot load flowcpc ({different}); install the same flowcpc there"
    if different:
        raise OperationError(f"the scheduler at {address} {problem}")


@dataclasses.dataclass(frozen=True)
class Probe:
    """A (temporary) file in the store with a random token, and a video, which all must see."""

    store: str
    token: str
    video: str
    video_bytes: int

    @property
    def file(self) -> Path:
        """Path of the file with the token."""
        return Path(self.store, f".{self.token}{TEMPORARY_SUFFIX}")


@contextlib.contextmanager
def made_probe(settings: ExtractionSettings, task: VideoTask) -> Iterator[Probe]:
    """Write a probe into the store for workers that must see the video of `task`, and yield it."""
    video = Path(settings.videos, task.video.path)
    probe = Probe(settings.store, uuid.uuid4().hex, str(video), task.source_bytes)
    probe.file.write_text(probe.token)
    try:
        yield probe
    finally:
        probe.file.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class WorkerReport:
    """What a worker says about itself before its first video."""

    host: str
    pid: int
    versions: dict[str, str]
    answer: str = ""  # the file that it wrote into the store
    problem: str = ""  # why it cannot work, in words
    nanny: str | None = None  # address of the process that restarts it
    slots: int = 1  # how many videos it processes at a time
    has_gpu: bool = False


def examine(probe: Probe, backend: str) -> WorkerReport:
    """Return the report of this worker process, after compiling or loading the solver."""
    answer = f".{probe.token}-{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
    problem = _problem(probe, answer, backend)
    return WorkerReport(platform.node(), os.getpid(), versions(), answer, problem)


def _problem(probe: Probe, answer: str, backend: str) -> str:
    """Write the answer into the store; return why this process cannot work, "" if it can."""
    if not _will_hold(probe.file, probe.token):
        return f"does not see the client's store {probe.store}; {_SAME_PATHS}"
    try:
        Path(probe.store, answer).write_text(probe.token)
    except OSError as error:
        return f"cannot write into the store {probe.store} ({error.strerror})"
    try:
        size = os.stat(probe.video).st_size
    except OSError as error:
        return f"does not see {probe.video} ({error.strerror}); {_SAME_PATHS}"
    if size != probe.video_bytes:
        sees = f"sees {size} bytes in {probe.video}, which has {probe.video_bytes} here"
        return f"{sees}; {_SAME_PATHS}"
    try:
        prepare(backend)
    except ValueError as error:
        return f"cannot compute flow ({error})"
    return ""


def judge(probe: Probe, report: WorkerReport) -> str:
    """Return why the worker of `report` cannot be used, in words; else "". Removes its answer."""
    answer = Path(probe.store, report.answer)
    if different := differences(report.versions):
        problem = f"has other software ({different}); install the same versions there"
    elif report.problem or _will_hold(answer, probe.token):
        problem = report.problem
    else:
        shared = "the store must be one folder that all machines share"
        problem = f"sees another folder at {probe.store}; {shared}"
    with contextlib.suppress(OSError):
        answer.unlink()
    return problem


def _will_hold(file: Path, token: str) -> bool:
    """Return whether `file` holds `token` now or soon."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with contextlib.suppress(OSError):
            if file.read_text() == token:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
