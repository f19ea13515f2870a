"""Find damage in a store and name the videos: every file is compared with the checksum that its record keeps.

Recomputing what is damaged is the pipeline's work.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from flowcpc.stores import layout
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.base.hashing import sha256_of_file
from flowcpc.stores.base.listener import Progress
from flowcpc.stores.embedding_parts import read_parts
from flowcpc.stores.embeddings import embedding_folders
from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.records import record_file
from flowcpc.stores.records.commits import find_fault
from flowcpc.stores.records.dataset_file import read_dataset
from flowcpc.stores.records.garbage import find_leftovers, find_orphans

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
    def pending(self) -> int:
        """How many videos of the data set are not extracted yet."""
        return sum(finding.kind == PENDING for finding in self.findings)

    @property
    def table(self) -> pd.DataFrame:
        """All findings: kind, video_id, path, what."""
        return pd.DataFrame(
            [dataclasses.asdict(finding) for finding in self.findings], columns=_COLUMNS
        )


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
    whose = _ids_by_record(store.path)
    commits = list(_read_records(store, "commits", whose, findings))
    failures = list(_read_records(store, "failures", whose, findings))
    named = {store.path / name for commit in commits for name in commit["files"]}
    total = sum(entry["bytes"] for commit in commits for entry in commit["files"].values())
    done = 0
    with ThreadPoolExecutor(workers) as pool:
        waiting = iter(commits)
        running: deque[Future[tuple[int, list[Finding]]]] = deque()
        for number in range(len(commits)):
            while len(running) < _AHEAD and (commit := next(waiting, None)) is not None:
                running.append(pool.submit(check_files, store.path, commit))
            if should_stop():
                pool.shutdown(cancel_futures=True)
                return Verification(False, number, done, findings)
            read, found = running.popleft().result()
            done += read
            findings += found
            progress(
                done,
                total,
                {"videos": f"{number + 1}/{len(commits)}", "findings": f"{len(findings)}"},
            )
    findings += _find_lost(store.path, whose)
    known = {record["video_id"] for record in [*commits, *failures]} | {
        finding.video_id for finding in findings
    }
    findings += _check_dataset(store, known)
    findings += _check_index(store.path)
    findings += _check_embeddings(store)
    findings += _find_extra(store, named)
    return Verification(True, len(commits), done, findings)


def advise(store: FlowStore, harmful: Sequence[Finding]) -> list[str]:
    """Return what mends some findings, a sentence for each of their kinds."""
    places = {Path(finding.path).parts[0] for finding in harmful if finding.video_id is None}
    sentences = []
    if any(finding.path.startswith("commits/") and finding.kind == MISSING for finding in harmful):
        sentences.append(
            f"commit records are gone: copy {store.path / 'commits'} back if you have it, and nothing need be computed again"
        )
    if any(finding.video_id is not None for finding in harmful):
        mend = import_command(store) or f"flowcpc verify {store.path} --repair VIDEOS"
        sentences.append(f"make the damaged videos again with: {mend}")
    if layout.DATASET_FILE in places:
        sentences.append(
            f"delete {store.path / layout.DATASET_FILE} and give the command that filled the store again, with the same lists"
        )
    if "index" in places:
        sentences.append(f"write the tables anew with: flowcpc info {store.path} --rebuild-index")
    if "embeddings" in places:
        sentences.append(f"make the embeddings again with: flowcpc embed {store.path} RUN")
    return sentences


def import_command(store: FlowStore) -> str:
    """Return the command that brings imported flow in again; nothing for a store whose flow was computed."""
    if "imported" not in store.numerics:
        return ""
    options = "--layout {layout} --bound {bound:g}".format(**store.numerics["imported"])
    return f"flowcpc import FOLDER {store.path} {options} (and the other options that it was imported with)"


def _read_records(
    store: FlowStore, kind: str, whose: Mapping[str, str], findings: list[Finding]
) -> Iterator[dict[str, Any]]:
    for name in record_file.record_names(store.path, kind):
        try:
            record = record_file.read_record(store.path / kind / name)
            what = find_fault(name, record, store.digest if kind == "commits" else None)
        except (DamagedStoreError, OSError) as error:
            what = (
                "the record does not fit its checksum"
                if isinstance(error, DamagedStoreError)
                else _why(error)
            )
        if what:
            findings.append(
                Finding(DAMAGED, whose.get(name, layout.id_of_record(name)), f"{kind}/{name}", what)
            )
        else:
            yield record


def _find_lost(store: Path, whose: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the commits that are gone although the index knows their flow, which is there."""
    for name in sorted({layout.record_of_generation(path) for path in find_orphans(store)}):
        what = "it does not exist, and the flow that it made the video's is there"
        yield Finding(MISSING, whose.get(name, layout.id_of_record(name)), f"commits/{name}", what)


def _ids_by_record(store: Path) -> dict[str, str]:
    """Return the videos of the data set by the name of their records; nothing where the data set cannot be read."""
    try:
        return {layout.record_name(video_id): video_id for video_id in read_dataset(store)}
    except DamagedStoreError:
        return {}


def check_files(store: Path, commit: Mapping[str, Any]) -> tuple[int, list[Finding]]:
    """Return (bytes read, findings) of one video's files."""
    read, findings = 0, []
    for name, expected in commit["files"].items():
        try:
            size, digest = (store / name).stat().st_size, sha256_of_file(store / name)
        except OSError as error:
            kind = MISSING if isinstance(error, FileNotFoundError) else DAMAGED
            findings.append(Finding(kind, commit["video_id"], name, _why(error)))
            continue
        read += size
        if size != expected["bytes"]:
            what = f"it has {size} bytes instead of {expected['bytes']}"
            findings.append(Finding(DAMAGED, commit["video_id"], name, what))
        elif digest != expected["sha256"]:
            findings.append(
                Finding(DAMAGED, commit["video_id"], name, "its bytes do not fit their checksum")
            )
    return read, findings


def _check_dataset(store: FlowStore, known: set[str | None]) -> Iterator[Finding]:
    try:
        meant = read_dataset(store.path)
    except DamagedStoreError:
        what = "the list of videos does not fit its checksum"
        yield Finding(DAMAGED, None, layout.DATASET_FILE, what)
        return
    for video_id in sorted(meant.keys() - known):
        yield Finding(PENDING, video_id, "", "it is not extracted yet")


def _check_index(store: Path) -> Iterator[Finding]:
    stamp = Path("index", layout.INDEX_STAMP)
    if not (store / stamp).exists():
        return  # the tables follow from the records
    try:
        files = record_file.read_record(store / stamp).get("files", {})
    except (DamagedStoreError, OSError):
        yield Finding(DAMAGED, None, str(stamp), "the stamp does not fit its checksum")
        return
    for table, digest in files.items():
        path = Path("index", f"{table}.parquet")
        try:
            if sha256_of_file(store / path) != digest:
                yield Finding(DAMAGED, None, str(path), "its bytes do not fit their checksum")
        except OSError as error:
            yield Finding(MISSING, None, str(path), _why(error))


def _check_embeddings(store: FlowStore) -> Iterator[Finding]:
    for folder in embedding_folders(store):
        try:
            read_parts(folder)
        except (DamagedStoreError, OSError) as error:
            name = str(folder.relative_to(store.path))
            yield Finding(
                DAMAGED,
                None,
                name,
                f"{error}" if isinstance(error, DamagedStoreError) else _why(error),
            )


def _find_extra(store: FlowStore, named: set[Path]) -> Iterator[Finding]:
    leftovers = find_leftovers(store.path)
    for path in leftovers:
        what = "no commit names it; the next extraction that holds the store alone collects it"
        yield Finding(EXTRA, None, str(path.relative_to(store.path)), what)
    said = {*leftovers, *find_orphans(store.path)}
    for path in sorted(
        path for folder in layout.GENERATION_FOLDERS for path in (store.path / folder).rglob("*")
    ):
        if path.is_file() and path not in named and said.isdisjoint((path, *path.parents)):
            yield Finding(EXTRA, None, str(path.relative_to(store.path)), "no commit names it")


def _why(error: OSError) -> str:
    return (
        "it does not exist"
        if isinstance(error, FileNotFoundError)
        else f"it cannot be read ({error.strerror})"
    )
