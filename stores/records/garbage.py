"""Who holds a store, and what is left over in it: generations that no commit names, files that a killed process had begun."""

import contextlib
import fcntl
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flowcpc.stores import layout
from flowcpc.stores.base.atomic import TEMPORARY_SUFFIX
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.records import record_file


@contextlib.contextmanager
def hold(store: Path) -> Iterator[None]:
    """Hold the store as one of its writers, so that no other process collects what this one is writing."""
    with open(store / layout.LOCK_FILE, "ab") as lock:
        with contextlib.suppress(OSError):  # a disk without locks: nobody can collect there either
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def collect(store: Path) -> int:
    """Delete what is left over, unless another process is writing. Returns how many files and folders went."""
    with open(store / layout.LOCK_FILE, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return 0
        garbage = find_leftovers(store)
        for path in garbage:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        return len(garbage)


@contextlib.contextmanager
def left_alone(store: Path) -> Iterator[bool]:
    """Hold the store, and yield whether nobody else does; of several that end, so asked, the last is told so."""
    with open(store / layout.LOCK_FILE, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(lock, fcntl.LOCK_SH)
            alone = True
        except BlockingIOError:
            alone = False
        except OSError:  # a disk without locks
            alone = True
        yield alone


def take_back(store: Path) -> bool:
    """Take away the files of a store in which no video was tried yet, and which nobody holds; return whether that is so."""
    if not (store / layout.STORE_FILE).is_file():
        return False
    with open(store / layout.LOCK_FILE, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        tried = [
            name
            for name in record_file.record_names(store, "failures")
            if not _is_absent(store / "failures" / name)
        ]
        if (
            tried
            or record_file.record_names(store, "commits")
            or any(any((store / folder).glob("*/*")) for folder in layout.GENERATION_FOLDERS)
        ):
            return False
        for path in find_leftovers(store):
            path.unlink(missing_ok=True)
        for kind in (
            *layout.GENERATION_FOLDERS,
            "commits",
            "failures",
            "index",
            layout.RUNS_FOLDER,
        ):
            shutil.rmtree(store / kind, ignore_errors=True)
        for name in (layout.DATASET_FILE, layout.STORE_FILE):  # the last says what the others are
            (store / name).unlink(missing_ok=True)
        return True


def _is_absent(failure: Path) -> bool:
    return bool(
        record_file.read_record(failure)["kind"] == "missing"
    )  # listed, and not there: nobody tried it


def find_leftovers(store: Path) -> list[Path]:
    """Return the generations that no commit names, the temporary files and those of runs; a running extraction's are among them.

    A video's commit is never deleted, only replaced: flow that the index knows and that has no commit lost it, and is kept (`find_orphans`).
    Only where a video has several generations, or a single one without a commit, is there anything to find, so that few records are read.
    """
    generations: dict[str, list[Path]] = defaultdict(list)
    found = []
    committed = set(record_file.record_names(store, "commits"))
    for folder in layout.GENERATION_FOLDERS:
        for path in (store / folder).glob("*/*"):
            generations[layout.record_of_generation(path)].append(path)
    for name, paths in generations.items():
        if name not in committed:
            found += paths
        elif len({layout.generation_of(path) for path in paths}) > 1:
            try:
                named = record_file.read_record(store / "commits" / name)["generation"]
            except DamagedStoreError:
                continue  # any of them may be whole: they stay
            found += [path for path in paths if layout.generation_of(path) != named]
    orphans = find_orphans(store) if found else set()
    found = [path for path in found if path not in orphans]
    for kind in ("commits", "failures", "index", "embeddings", layout.RUNS_FOLDER):
        found.extend((store / kind).rglob(f".*{TEMPORARY_SUFFIX}"))
    runs = (store / layout.RUNS_FOLDER).glob("*.json")
    return [*found, *runs, *store.glob(f".*{TEMPORARY_SUFFIX}")]


def find_orphans(store: Path) -> set[Path]:
    """Return the files of generations that the last index named and whose video has no commit any more: somebody lost the record.

    What a killed writer leaves was in no index.
    """
    try:
        columns = pq.read_table(
            store / "index" / "videos.parquet", columns=["video_id", "generation"]
        ).to_pydict()
    except (OSError, ValueError, KeyError, pa.ArrowException):  # none yet, or a damaged one
        return set()
    committed = set(record_file.record_names(store, "commits"))
    named = zip(columns["video_id"], columns["generation"], strict=True)
    lost = [pair for pair in named if layout.record_name(pair[0]) not in committed]
    flow = {
        store / layout.generation_path(*pair, name)
        for pair in lost
        for name in layout.ARRAY_FORMATS
    }
    paths = flow | {store / layout.frames_path(*pair) for pair in lost}
    return {path for path in paths if path.exists()}
