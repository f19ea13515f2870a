"""Who holds a store, and what is left over in it: generations that no commit names, files that a killed process had begun."""

import contextlib
import fcntl
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from stores import layout, records
from stores.atomic import TEMPORARY_SUFFIX
from stores.errors import DamagedStoreError


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


def find_leftovers(store: Path) -> list[Path]:
    """Return the generations that no commit names and the temporary files; a running extraction's are among them.

    Only where a video has several generations, or a single one without a commit, is there anything to find, so that few records are read.
    """
    generations: dict[Path, list[Path]] = defaultdict(list)
    found = []
    for path in (store / "flow").glob("*/*"):
        generations[store / "commits" / path.parent.name / f"{layout.key_of(path)}.json"].append(path)
    for record, paths in generations.items():
        if not record.exists():
            found += paths
        elif len(paths) > 1:
            try:
                named = records.read_record(record)["generation"]
            except DamagedStoreError:
                continue  # any of them may be whole: they stay
            found += [path for path in paths if layout.generation_of(path) != named]
    for kind in ("commits", "failures", "index", "embeddings"):
        found.extend((store / kind).rglob(f".*{TEMPORARY_SUFFIX}"))
    return [*found, *store.glob(f".*{TEMPORARY_SUFFIX}")]
