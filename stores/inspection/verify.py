"""Find damage in a store, which pipeline.repair mends: compare every file with its checksum."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from flowcpc.stores import layout
from flowcpc.stores.base.atomic import sha256_of_file
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.base.listener import SILENT, Listener
from flowcpc.stores.embedding_parts import read_parts
from flowcpc.stores.embeddings import embedding_folders
from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.records import record_file
from flowcpc.stores.records.commits import find_fault
from flowcpc.stores.records.dataset_file import read_dataset
from flowcpc.stores.records.garbage import find_leftovers, find_orphans

DAMAGED = "damaged"  # the bytes of a file are not those that were written
MISSING = "missing"  # a record names the file, and it does not exist
PENDING = "pending"  # a video of the data set is not extracted yet
EXTRA = "extra"  # no record names the file; harmless, the next extraction deletes it
_MISMATCH = "its bytes do not match their checksum"


@dataclasses.dataclass(frozen=True)
class StoreProblem:
    """What is wrong with a file of a video (or of none); `path` is relative to the store."""

    kind: str
    video_id: str | None
    path: str
    what: str


@dataclasses.dataclass(frozen=True)
class Verification:
    """Result of `verify`: videos and bytes read. `finished` is false if it was stopped early."""

    finished: bool
    videos: int
    bytes: int
    problems: list[StoreProblem]

    @property
    def harmful(self) -> list[StoreProblem]:
        """The damaged and missing files, which make a reader fail."""
        return [problem for problem in self.problems if problem.kind in (DAMAGED, MISSING)]

    @property
    def pending(self) -> int:
        """Number of videos of the data set that are not extracted yet."""
        return sum(problem.kind == PENDING for problem in self.problems)

    @property
    def table(self) -> pd.DataFrame:
        """All problems: kind, video_id, path, what."""
        columns = [field.name for field in dataclasses.fields(StoreProblem)]
        return pd.DataFrame(map(dataclasses.asdict, self.problems), columns=columns)


def verify(store: FlowStore, *, workers: int = 4, listener: Listener = SILENT) -> Verification:
    """Read every file of `store` in `workers` threads and compare it with its record.

    The listener receives the bytes of flow read so far, and may stop the work between videos.
    """
    problems: list[StoreProblem] = []
    dataset = None  # if its list is damaged
    with contextlib.suppress(DamagedStoreError):
        dataset = read_dataset(store.path)
    video_ids = {layout.record_name(video_id): video_id for video_id in dataset or ()}
    commits = list(_read_records(store, "commits", video_ids, problems))
    failures = list(_read_records(store, "failures", video_ids, problems))
    total = sum(file["bytes"] for commit in commits for file in commit["files"].values())
    done = 0
    with ThreadPoolExecutor(workers) as pool:
        checks = pool.map(functools.partial(check_files, store.path), commits)
        for number in range(len(commits)):
            if listener.should_stop():
                pool.shutdown(cancel_futures=True)
                return Verification(False, number, done, problems)
            size, damage = next(checks)
            done += size
            problems += damage
            counts = {"videos": f"{number + 1}/{len(commits)}", "problems": f"{len(problems)}"}
            listener.progress(done, total, counts)
    problems += _find_lost(store.path, video_ids)
    if dataset is None:
        what = "the list of videos does not match its checksum"
        problems.append(StoreProblem(DAMAGED, None, layout.DATASET_FILE, what))
    else:
        known = {record["video_id"] for record in [*commits, *failures]}
        pending = dataset.keys() - known - {problem.video_id for problem in problems}
        what = "it is not extracted yet"
        problems += [StoreProblem(PENDING, video_id, "", what) for video_id in sorted(pending)]
    problems += _check_index(store.path)
    problems += _check_embeddings(store)
    named = {store.path / name for commit in commits for name in commit["files"]}
    problems += _find_extra(store.path, named)
    return Verification(True, len(commits), done, problems)


def advise(store: FlowStore, harmful: Sequence[StoreProblem]) -> list[str]:
    """Return how to mend some problems, one sentence for each kind of file."""
    root = store.path
    folders = {Path(problem.path).parts[0] for problem in harmful if problem.video_id is None}
    sentences = []
    if any(problem.path.startswith("commits/") and problem.kind == MISSING for problem in harmful):
        advice = f"restore {root / 'commits'} from a backup, if any; nothing must be computed again"
        sentences.append(f"commit records are missing: {advice}")
    if any(problem.video_id is not None for problem in harmful):
        command = import_command(store) or f"flowcpc verify {root} --repair VIDEOS"
        sentences.append(f"make the damaged videos again with: {command}")
    if layout.DATASET_FILE in folders:
        again = "run the command that filled the store again, with the same lists"
        sentences.append(f"delete {root / layout.DATASET_FILE} and {again}")
    if "index" in folders:
        sentences.append(f"rebuild the tables with: flowcpc info {root} --rebuild-index")
    if "embeddings" in folders:
        sentences.append(f"make the embeddings again with: flowcpc embed {root} RUN")
    return sentences


def import_command(store: FlowStore) -> str:
    """Return the command that imports the flow of a store again; "" if its flow was computed."""
    if "imported" not in store.numerics:
        return ""
    options = "--layout {layout} --bound {bound:g}".format(**store.numerics["imported"])
    return f"flowcpc import FOLDER {store.path} {options} (and the other options of that import)"


def check_files(store: Path, commit: Mapping[str, Any]) -> tuple[int, list[StoreProblem]]:
    """Return (bytes read, problems) of one video's files."""
    total, problems = 0, []
    for name, expected in commit["files"].items():
        try:
            size, digest = (store / name).stat().st_size, sha256_of_file(store / name)
        except OSError as error:
            kind, what = _kind_and_reason(error)
        else:
            total += size
            if size != expected["bytes"]:
                kind, what = DAMAGED, f"it has {size} bytes instead of {expected['bytes']}"
            elif digest != expected["sha256"]:
                kind, what = DAMAGED, _MISMATCH
            else:
                continue
        problems.append(StoreProblem(kind, commit["video_id"], name, what))
    return total, problems


def _kind_and_reason(error: OSError) -> tuple[str, str]:
    if isinstance(error, FileNotFoundError):
        return MISSING, "it does not exist"
    return DAMAGED, f"it cannot be read ({error.strerror})"


def _read_records(
    store: FlowStore, folder: str, video_ids: Mapping[str, str], problems: list[StoreProblem]
) -> Iterator[dict[str, Any]]:
    """Yield the valid records in `folder`; add a problem for each of the others."""
    for name in record_file.record_names(store.path, folder):
        try:
            record = record_file.read_record(store.path / folder / name)
            what = find_fault(name, record, store.digest if folder == "commits" else None)
        except DamagedStoreError:
            what = "the record does not match its checksum"
        except OSError as error:
            what = _kind_and_reason(error)[1]
        if what:
            video_id = video_ids.get(name, layout.id_of_record(name))
            problems.append(StoreProblem(DAMAGED, video_id, f"{folder}/{name}", what))
        else:
            yield record


def _find_lost(store: Path, video_ids: Mapping[str, str]) -> Iterator[StoreProblem]:
    """Yield the commits that are gone although the index names their flow, which exists."""
    for name in sorted({layout.record_and_generation(path)[0] for path in find_orphans(store)}):
        video_id = video_ids.get(name, layout.id_of_record(name))
        what = "it does not exist, but the flow of this video does"
        yield StoreProblem(MISSING, video_id, f"commits/{name}", what)


def _check_index(store: Path) -> Iterator[StoreProblem]:
    stamp = Path("index", layout.INDEX_STAMP)
    if not (store / stamp).exists():
        return  # the tables are built from the records
    try:
        digests = record_file.read_record(store / stamp).get("files", {})
    except (DamagedStoreError, OSError):
        what = "the stamp does not match its checksum"
        yield StoreProblem(DAMAGED, None, str(stamp), what)
        return
    for table, digest in digests.items():
        path = Path("index", f"{table}.parquet")
        try:
            if sha256_of_file(store / path) != digest:
                yield StoreProblem(DAMAGED, None, str(path), _MISMATCH)
        except OSError as error:
            yield StoreProblem(MISSING, None, str(path), _kind_and_reason(error)[1])


def _check_embeddings(store: FlowStore) -> Iterator[StoreProblem]:
    for folder in embedding_folders(store):
        try:
            read_parts(folder)
        except (DamagedStoreError, OSError) as error:
            what = _kind_and_reason(error)[1] if isinstance(error, OSError) else str(error)
            yield StoreProblem(DAMAGED, None, str(folder.relative_to(store.path)), what)


def _find_extra(store: Path, named: set[Path]) -> Iterator[StoreProblem]:
    leftovers = find_leftovers(store)
    for path in leftovers:
        what = "no commit names it; the next extraction that runs alone deletes it"
        yield StoreProblem(EXTRA, None, str(path.relative_to(store)), what)
    reported = {*leftovers, *find_orphans(store)}
    for folder in layout.GENERATION_FOLDERS:
        for path in sorted((store / folder).rglob("*")):
            if path.is_file() and path not in named and reported.isdisjoint((path, *path.parents)):
                what = "no commit names it"
                yield StoreProblem(EXTRA, None, str(path.relative_to(store)), what)
