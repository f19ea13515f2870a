"""Who holds a store, and what is left over in it: generations that no commit names, files that a killed process had begun."""

import contextlib
import shutil
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flowcpc.stores import layout
from flowcpc.stores.base.atomic import TEMPORARY_SUFFIX
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.base.locks import locked, locked_if_free, shared_by_last
from flowcpc.stores.records import record_file


def hold(store: Path) -> contextlib.AbstractContextManager[None]:
    """Lock the store as one of its writers, so that nobody deletes what this process writes."""
    return locked(store / layout.LOCK_FILE, shared=True, wait=True)


def collect(store: Path) -> int:
    """Delete what is left over, unless another process is writing. Returns how many files and folders went."""
    with locked_if_free(store / layout.LOCK_FILE) as is_free:
        garbage = find_leftovers(store) if is_free else []
        for path in garbage:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        return len(garbage)


def left_alone(store: Path) -> contextlib.AbstractContextManager[bool]:
    """Lock the store; the block gets True if no other process holds it.

    When several writers finish at the same time, only the last one gets True.
    """
    return shared_by_last(store / layout.LOCK_FILE)


def take_back(store: Path) -> bool:
    """Take away the files of a store in which no video was tried yet, and which nobody holds; return whether that is so."""
    if not (store / layout.STORE_FILE).is_file():
        return False
    with locked_if_free(store / layout.LOCK_FILE) as is_free:
        if not is_free:
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
