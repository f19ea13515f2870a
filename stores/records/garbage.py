"""Locks of a whole store, and the deletion of what no commit names or a killed process left."""

import contextlib
import shutil
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flowcpc.stores import layout
from flowcpc.stores.base.atomic import TEMPORARY_SUFFIX
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.base.locks import locked_if_free
from flowcpc.stores.records.record_file import read_record, record_names


def collect(store: Path) -> int:
    """Delete leftovers unless another process writes. Returns the number of files and folders."""
    with locked_if_free(store / layout.LOCK_FILE) as is_free:
        garbage = find_leftovers(store) if is_free else []
        for path in garbage:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        return len(garbage)


def take_back(store: Path) -> bool:
    """Delete a store in which no video was tried yet, unless it is in use. Return True if so."""
    if not (store / layout.STORE_FILE).is_file():
        return False
    with locked_if_free(store / layout.LOCK_FILE) as is_free:
        if not is_free or record_names(store, "commits"):
            return False
        failures = [store / "failures" / name for name in record_names(store, "failures")]
        # A video whose file is missing was listed, but nobody tried it.
        if any(read_record(path)["kind"] != "missing" for path in failures):
            return False
        if any(any((store / folder).glob("*/*")) for folder in layout.GENERATION_FOLDERS):
            return False
        for path in find_leftovers(store):
            path.unlink(missing_ok=True)
        kinds = ("commits", "failures", "index", layout.RUNS_FOLDER)
        for kind in (*layout.GENERATION_FOLDERS, *kinds):
            shutil.rmtree(store / kind, ignore_errors=True)
        for name in (layout.DATASET_FILE, layout.STORE_FILE):  # store.json explains the others
            (store / name).unlink(missing_ok=True)
        return True


def find_leftovers(store: Path) -> list[Path]:
    """Return generations that no commit names, temporary files and heartbeat files.

    Files of a running extraction are among them. An extraction replaces commits and deletes none.
    So flow that the index names without a commit has lost it: no leftover (`find_orphans`).
    """
    committed = set(record_names(store, "commits"))
    generations: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for folder in layout.GENERATION_FOLDERS:
        for path in (store / folder).glob("*/*"):
            name, generation = layout.record_and_generation(path)
            generations[name].append((generation, path))
    unnamed = []
    for name, paths in generations.items():
        if name not in committed:
            unnamed += [path for _, path in paths]
        elif len({generation for generation, _ in paths}) > 1:  # else no record is read
            with contextlib.suppress(DamagedStoreError):  # any of them may be whole: they stay
                named = read_record(store / "commits" / name)["generation"]
                unnamed += [path for generation, path in paths if generation != named]
    orphans = find_orphans(store) if unnamed else set()
    leftovers = [path for path in unnamed if path not in orphans]
    for kind in ("commits", "failures", "index", "embeddings", layout.RUNS_FOLDER):
        leftovers.extend((store / kind).rglob(f".*{TEMPORARY_SUFFIX}"))
    runs = (store / layout.RUNS_FOLDER).glob("*.json")
    return [*leftovers, *runs, *store.glob(f".*{TEMPORARY_SUFFIX}")]


def find_orphans(store: Path) -> set[Path]:
    """Return the files of generations that the last index names and whose commit was lost."""
    try:
        columns = pq.read_table(
            store / "index" / "videos.parquet", columns=["video_id", "generation"]
        ).to_pydict()
    except (OSError, ValueError, KeyError, pa.ArrowException):  # no index yet, or a damaged one
        return set()
    committed = set(record_names(store, "commits"))
    paths = set()
    for pair in zip(columns["video_id"], columns["generation"], strict=True):
        if layout.record_name(pair[0]) not in committed:
            paths |= {layout.generation_path(*pair, name) for name in layout.ARRAY_FORMATS}
            paths.add(layout.frames_path(*pair))
    return {store / path for path in paths if (store / path).exists()}
