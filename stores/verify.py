"""Find damage in a store and name the videos: every file is compared with the checksum that its record keeps.

Recomputing what is damaged is the pipeline's work.
"""

import dataclasses
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from stores import catalog, layout, records
from stores.embeddings import embedding_folders, read_folder
from stores.errors import DamagedStoreError
from stores.flow_store import FlowStore
from stores.garbage import find_leftovers
from stores.progress import Progress

DAMAGED = "damaged"  # a file's bytes are not those that were written
MISSING = "missing"  # a file that a record names is not there
PENDING = "pending"  # a video of the data set that is not extracted yet
EXTRA = "extra"  # a file that no record names; no harm, the next extraction collects it
_COLUMNS = ["kind", "video_id", "path", "what"]
_AHEAD = 64


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something wrong with a file; `video_id` is None where it belongs to no single video, `path` is relative to the store."""

    kind: str
    video_id: str | None
    path: str
    what: str


@dataclasses.dataclass(frozen=True)
class Verification:
    """What `verify` found. `finished` is false when it was stopped before the end."""

    finished: bool
    videos: int
    bytes: int
    findings: list[Finding]

    @property
    def harmful(self) -> list[Finding]:
        """The findings that make a reader fail: damaged and missing files."""
        return [finding for finding in self.findings if finding.kind in (DAMAGED, MISSING)]

    @property
    def table(self) -> pd.DataFrame:
        """All findings: kind, video_id, path, what."""
        return pd.DataFrame([dataclasses.asdict(finding) for finding in self.findings], columns=_COLUMNS)


def verify(
    store: FlowStore,
    *,
    workers: int = 4,
    progress: Progress = lambda done, total, fields: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Verification:
    """Read every file of `store` and compare it with its record.

    Parameters
    ----------
    store : FlowStore
        Opened, so its store.json is whole.
    workers : int
        Threads that read.
    progress : callable
        Counts bytes of flow; its fields are videos and findings.
    should_stop : callable
        Asked between videos.
    """
    findings: list[Finding] = []
    commits = list(_read_records(store, "commits", findings))
    failures = list(_read_records(store, "failures", findings))
    named = {store.path / name for commit in commits for name in commit["files"]}
    total = sum(entry["bytes"] for commit in commits for entry in commit["files"].values())
    done = 0
    with ThreadPoolExecutor(workers) as pool:
        waiting = iter(commits)
        running: deque[Future[tuple[int, list[Finding]]]] = deque()
        for number in range(len(commits)):
            while len(running) < _AHEAD and (commit := next(waiting, None)) is not None:
                running.append(pool.submit(_check_video, store.path, commit))
            if should_stop():
                pool.shutdown(cancel_futures=True)
                return Verification(False, number, done, findings)
            read, found = running.popleft().result()
            done += read
            findings += found
            progress(done, total, {"videos": f"{number + 1}/{len(commits)}", "findings": f"{len(findings)}"})
    known = {record["video_id"] for record in [*commits, *failures]} | {finding.video_id for finding in findings}
    findings += _check_dataset(store, known)
    findings += _check_index(store.path)
    findings += _check_embeddings(store)
    findings += _find_extra(store, named)
    return Verification(True, len(commits), done, findings)


def _read_records(store: FlowStore, kind: str, findings: list[Finding]) -> Iterator[dict[str, Any]]:
    place = layout.commit_path if kind == "commits" else layout.failure_path
    for path in records.record_paths(store.path, kind):
        name = str(path.relative_to(store.path))
        try:
            record = records.read_record(path)
        except (DamagedStoreError, OSError) as error:
            what = "the record does not fit its checksum" if isinstance(error, DamagedStoreError) else _why(error)
            findings.append(Finding(DAMAGED, _whose(store, kind, path), name, what))
            continue
        if place(store.path, record["video_id"]) != path:
            what = f"it is the record of {record['video_id']}"
            findings.append(Finding(DAMAGED, _whose(store, kind, path), name, what))
            continue
        yield record


def _whose(store: FlowStore, kind: str, path: Path) -> str | None:
    """The video whose record should be at `path`, as the data set says; its key where that cannot be read."""
    place = layout.commit_path if kind == "commits" else layout.failure_path
    try:
        ids = catalog.read_dataset(store.path)
    except DamagedStoreError:
        ids = {}
    return next((video_id for video_id in ids if place(store.path, video_id) == path), path.stem)


def _check_video(store: Path, commit: Mapping[str, Any]) -> tuple[int, list[Finding]]:
    """Return (bytes read, findings) of one video's files."""
    read, findings = 0, []
    for name, expected in commit["files"].items():
        try:
            with open(store / name, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
        except OSError as error:
            kind = MISSING if isinstance(error, FileNotFoundError) else DAMAGED
            findings.append(Finding(kind, commit["video_id"], name, _why(error)))
            continue
        read += size
        if size != expected["bytes"]:
            what = f"it has {size} bytes instead of {expected['bytes']}"
            findings.append(Finding(DAMAGED, commit["video_id"], name, what))
        elif digest != expected["sha256"]:
            findings.append(Finding(DAMAGED, commit["video_id"], name, "its bytes do not fit their checksum"))
    return read, findings


def _check_dataset(store: FlowStore, known: set[str | None]) -> Iterator[Finding]:
    try:
        meant = catalog.read_dataset(store.path)
    except DamagedStoreError:
        what = "the list of videos does not fit its checksum; delete it, and extract-flow with the data set's lists writes it anew"
        yield Finding(DAMAGED, None, layout.DATASET_FILE, what)
        return
    for video_id in sorted(meant.keys() - known):
        yield Finding(PENDING, video_id, "", "it is not extracted yet")


def _check_index(store: Path) -> Iterator[Finding]:
    stamp = Path("index", layout.INDEX_STAMP)
    remedy = "rebuild it with flowcpc info --rebuild-index"
    if not (store / stamp).exists():
        return  # the tables follow from the records
    try:
        files = records.read_record(store / stamp)["files"]
    except (DamagedStoreError, OSError):
        yield Finding(DAMAGED, None, str(stamp), f"the stamp does not fit its checksum; {remedy}")
        return
    for table, digest in files.items():
        path = Path("index", f"{table}.parquet")
        try:
            if hashlib.sha256((store / path).read_bytes()).hexdigest() != digest:
                yield Finding(DAMAGED, None, str(path), f"its bytes do not fit their checksum; {remedy}")
        except OSError as error:
            yield Finding(MISSING, None, str(path), f"{_why(error)}; {remedy}")


def _check_embeddings(store: FlowStore) -> Iterator[Finding]:
    for folder in embedding_folders(store):
        try:
            read_folder(folder)
        except (DamagedStoreError, OSError) as error:
            name = str(folder.relative_to(store.path))
            yield Finding(DAMAGED, None, name, f"{error}" if isinstance(error, DamagedStoreError) else _why(error))


def _find_extra(store: FlowStore, named: set[Path]) -> Iterator[Finding]:
    leftovers = find_leftovers(store.path)
    for path in leftovers:
        what = "no commit names it; the next extraction that holds the store alone collects it"
        yield Finding(EXTRA, None, str(path.relative_to(store.path)), what)
    for path in sorted((store.path / "flow").rglob("*")):
        inside = any(leftover == path or leftover in path.parents for leftover in leftovers)
        if path.is_file() and path not in named and not inside:
            yield Finding(EXTRA, None, str(path.relative_to(store.path)), "no commit names it")


def _why(error: OSError) -> str:
    return "it does not exist" if isinstance(error, FileNotFoundError) else f"it cannot be read ({error.strerror})"
