"""Locks of files and folders between processes (flock).

A file that is missing is created; a folder must exist. The kernel releases a lock when its process
ends, however it ends. Some disks have no locks: each function says what it does there.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False, busy: str | None = None) -> Iterator[None]:
    """Lock `path` during the block: exclusively, or `shared`. A disk without locks gets none.

    While another process holds the lock, wait; with the message `busy`, raise ValueError instead.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with _opened_and_locked(path, kind if busy is None else kind | fcntl.LOCK_NB) as error:
        if isinstance(error, BlockingIOError):
            raise ValueError(busy)
        yield


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Lock `path` exclusively and yield True; yield False if it is in use, or cannot be locked."""
    with _opened_and_locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB) as error:
        yield error is None


@contextlib.contextmanager
def shared_by_last(path: Path) -> Iterator[bool]:
    """Lock `path` shared and yield True if no other process holds it; yield False otherwise.

    When several processes release a lock and then call this, only the last one gets True. On a disk
    without locks each gets True.
    """
    with _opened_and_locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_SH) as error:
        yield not isinstance(error, BlockingIOError)


@contextlib.contextmanager
def _opened_and_locked(path: Path, *kinds: int) -> Iterator[OSError | None]:
    """Lock `path` as each of `kinds` in turn; yield the error of the first that is refused."""
    # On NFS an exclusive lock needs a file that is open for writing.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    refused = None
    try:
        try:
            for kind in kinds:
                fcntl.flock(descriptor, kind)
        except OSError as error:
            refused = error
        yield refused
    finally:
        os.close(descriptor)
