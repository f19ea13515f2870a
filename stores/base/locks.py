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
def locked(path: Path, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Lock `path` during the block: exclusively, or `shared`. A disk without locks gets none.

    While another process holds the lock, wait, or raise BlockingIOError without `wait`.
    """
    with _opened(path) as descriptor:
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a disk without locks
            pass
        yield


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Lock `path` exclusively and yield True; yield False if it is in use, or cannot be locked."""
    with _opened(path) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_free = True
        except OSError:
            is_free = False
        yield is_free


@contextlib.contextmanager
def shared_by_last(path: Path) -> Iterator[bool]:
    """Lock `path` shared and yield True if no other process holds it; yield False otherwise.

    When several processes release a lock and then call this, only the last one gets True. On a disk
    without locks each gets True.
    """
    with _opened(path) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            is_last = True
        except OSError as error:
            is_last = not isinstance(error, BlockingIOError)
        yield is_last


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    # On NFS an exclusive lock needs a file that is open for writing.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
