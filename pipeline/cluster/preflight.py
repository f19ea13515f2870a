"""Whether every process of a cluster has the same software and sees the same files, asked before the first video."""

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
from typing import Any

import cv2

from flowcpc.pipeline.extraction.extract import ExtractionSettings
from flowcpc.pipeline.extraction.ledger import VideoTask
from flowcpc.pipeline.tvl1.solver import prepare
from flowcpc.stores.base.atomic import TEMPORARY_SUFFIX
from flowcpc.stores.base.errors import OperationError

_PACKAGES = ("numpy", "numba", "zarr", "h5py", "distributed")
_ONE_PATH = "store and videos must be the same folders, under the same paths, on every machine"
_PATIENCE_S = 5.0  # what one machine wrote may take moments to be seen on another


@functools.cache
def versions() -> dict[str, str]:
    """Return what has to be the same everywhere; flowcpc's version names its source files too."""
    package = Path(__file__).parents[2]  # flowcpc: the folders of both the stage and the store
    rooms = package / "pipeline", package / "stores"
    sources = hashlib.sha256()
    for file in sorted(file for room in rooms for file in room.rglob("*.py")):
        sources.update(file.name.encode() + file.read_bytes())
    return {
        "flowcpc": f"{metadata.version('flowcpc')} ({sources.hexdigest()[:8]})",
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: metadata.version(name) for name in _PACKAGES},
        "opencv": cv2.__version__,
    }


def differences(there: Mapping[str, str]) -> str:
    """Return how the versions of another process differ from this one's, in words; empty where they do not."""
    here = versions()
    found = [
        f"{name} is {there.get(name)} there and {here[name]} here"
        for name in here
        if there.get(name) != here[name]
    ]
    return ", ".join(found)


def check_scheduler(address: str, ask: Callable[[], Mapping[str, str]]) -> None:
    """Raise OperationError where the scheduler could not read our tasks, for which a run would else wait in vain; `ask` returns its `versions`."""
    try:
        different = differences(ask())
    except Exception as error:
        raise OperationError(
            f"the scheduler at {address} cannot load flowcpc ({type(error).__name__}: {error}); install the same flowcpc there"
        ) from error
    if different:
        raise OperationError(
            f"the scheduler at {address} has other software ({different}); install the same there and start it again"
        )


@dataclasses.dataclass(frozen=True)
class Probe:
    """A file in the store with a random token, and a video that every worker must see as it is here.

    A run that dies leaves the file behind as a temporary one, which the next run collects.
    """

    store: str
    token: str
    video: str
    video_bytes: int

    @property
    def file(self) -> Path:
        """Where the token is."""
        return Path(self.store, f".{self.token}{TEMPORARY_SUFFIX}")


@contextlib.contextmanager
def made_probe(settings: ExtractionSettings, task: VideoTask) -> Iterator[Probe]:
    """Write a probe into the store, whose workers must see the video of `task`, and yield it."""
    video = Path(settings.videos, task.video.path)
    probe = Probe(settings.store, uuid.uuid4().hex, str(video), task.source_bytes)
    probe.file.write_text(probe.token)
    try:
        yield probe
    finally:
        probe.file.unlink(missing_ok=True)


def examine(probe: Probe, backend: str) -> dict[str, Any]:
    """Return what a worker finds: host, pid, versions, the `answer` file that it wrote into the store, and the
    `problem` that keeps it from working, in words.
    """
    report: dict[str, Any] = {"host": platform.node(), "pid": os.getpid(), "versions": versions()}
    answer = Path(probe.store, f".{probe.token}-{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    if not _comes_to_hold(probe.file, probe.token):
        return report | {
            "problem": f"does not see the store {probe.store} that is seen here; {_ONE_PATH}"
        }
    try:
        answer.write_text(probe.token)
    except OSError as error:
        return report | {"problem": f"cannot write into the store {probe.store} ({error.strerror})"}
    try:
        size = os.stat(probe.video).st_size
    except OSError as error:
        return report | {
            "answer": answer.name,
            "problem": f"does not see {probe.video} ({error.strerror}); {_ONE_PATH}",
        }
    if size != probe.video_bytes:
        problem = (
            f"sees {size} bytes in {probe.video}, which has {probe.video_bytes} here; {_ONE_PATH}"
        )
        return report | {"answer": answer.name, "problem": problem}
    try:
        prepare(backend)  # compiled, or loaded, now, so that no video waits for it
    except ValueError as error:
        return report | {"answer": answer.name, "problem": f"cannot compute ({error})"}
    return report | {"answer": answer.name}


def judge(probe: Probe, report: Mapping[str, Any]) -> str:
    """Return why the worker of this `report` cannot be used, in words; empty where it can. Removes its answer."""
    answer = Path(probe.store, report["answer"]) if "answer" in report else None
    try:
        different = differences(report["versions"])
        if different:
            return f"has other software ({different}); install the same there"
        if "problem" in report:
            return str(report["problem"])
        if answer is not None and not _comes_to_hold(answer, probe.token):
            return f"wrote into another {probe.store} than this one; the store must be one folder that all machines share"
        return ""
    finally:
        if answer is not None:
            answer.unlink(missing_ok=True)


def _comes_to_hold(file: Path, token: str) -> bool:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            if file.read_text() == token:
                return True
        except OSError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
