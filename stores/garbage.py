"""Who holds a store, and what is left over in it: generations that no commit names, files that a killed process had begun."""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from stores import catalog, layout
from stores.atomic import TEMPORARY_SUFFIX
from stores.errors import DamagedStoreError


@contextlib.contextmanager
def hold(store: Path) -> Iterator[None]:
    """Hold the store as one of its writers, so that no other process collects what this one is writing."""
    with open(store / layout.LOCK_FILE, "ab") as lock:
        with contextlib.suppress(OSError):  # a disk without locks: nobody can collect there either
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def collect(store: Path, array_format: str) -> int:
    """Delete what is left over, unless another process is writing. Returns how many files and folders went."""
    with open(store / layout.LOCK_FILE, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return 0
        garbage = find_leftovers(store, array_format)
        for path in garbage:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        return len(garbage)


def find_leftovers(store: Path, array_format: str) -> list[Path]:
    """Return the generations that no commit names and the temporary files; a running extraction's are among them."""
    named, unreadable = set(), set()
    for path in catalog.record_paths(store, "commits"):
        try:
            commit = catalog.read_record(path)
        except DamagedStoreError:
            unreadable.add((path.parent.name, path.stem))  # its arrays may be whole: they stay
            continue
        named.add(store / layout.generation_path(commit["video_id"], commit["generation"], array_format))
    found = [
        path
        for path in (store / "flow").glob("*/*")
        if path not in named and (path.parent.name, layout.key_of(path)) not in unreadable
    ]
    for kind in ("commits", "failures", "index", "embeddings"):
        found.extend((store / kind).rglob(f".*{TEMPORARY_SUFFIX}"))
    return [*found, *store.glob(f".*{TEMPORARY_SUFFIX}")]
