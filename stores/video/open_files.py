"""Files that readers keep open, and reads at a place in them."""

import errno
import functools
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_NO_DAMAGE = (errno.EMFILE, errno.ENFILE, errno.EACCES)
_OPEN_FILES = 128


def read_at(path: Path, begin: int, room: NDArray[np.uint8]) -> str:
    """Fill `room` with the bytes of a file from `begin` on. Returns what is wrong with the file; nothing where it was filled.

    Raises OSError for what is no damage: too many open files, no permission.
    """
    try:
        opened = _open(str(path))  # by a name of ours: the cache may give it up before it is read
        got = 0
        while got < len(room):  # a read may bring less than was asked for
            more = os.preadv(opened.descriptor, [room[got:].data], begin + got)
            if more == 0:
                return "the file is too short"
            got += more
    except OSError as error:
        if error.errno in _NO_DAMAGE:
            raise
        return error.strerror or str(error)
    return ""


class _OpenFile:
    """A descriptor that is closed when nobody holds it any more: a thread may still read what the cache below gave up."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


@functools.lru_cache(_OPEN_FILES)
def _open(path: str) -> _OpenFile:
    """Return an open file; generations have names of their own, so a path never comes to mean other bytes."""
    return _OpenFile(path)
