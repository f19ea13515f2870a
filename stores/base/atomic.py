"""Files that are whole or absent: written under a temporary name, synced, renamed."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

TEMPORARY_SUFFIX = ".tmp"


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that a reader, or a crash, sees the old file or the new one and nothing between; raises as `replaced_file`."""
    with replaced_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write that takes the place of `path` when the block ends well, all of it at once.

    The parent folder is made when missing. Raises OSError (for example disk full) and then leaves the old file alone.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (NotADirectoryError, FileExistsError) as error:
        raise FileExistsError(
            f"{path.parent} cannot be a folder, a file is in its way; give another path"
        ) from error
    temporary = path.parent / f".{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Ask the disk to keep the bytes of `path`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Ask the disk to keep the names in folder `path` (a rename lives in the folder, not in the file)."""
    sync_file(path)
