"""Files that readers keep open, and positional reads of them."""

import errno
import functools
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_NO_DAMAGE = (errno.EMFILE, errno.ENFILE, errno.EACCES)
_OPEN_FILES = 128


def read_at(path: Path, begin: int, out: NDArray[np.uint8]) -> str:
    """Fill `out` with the bytes of a file from `begin` on. Returns the fault of the file, or "".

    Raises OSError for what is no damage: too many open files, no permission.
    """
    try:
        opened = _open(str(path))  # this variable keeps it open even if the cache drops it
        done = 0
        while done < len(out):  # a read may return less than was asked for
            count = os.preadv(opened.descriptor, [out[done:].data], begin + done)
            if count == 0:
                return "the file is too short"
            done += count
    except OSError as error:
        if error.errno in _NO_DAMAGE:
            raise
        return error.strerror or str(error)
    return ""


class _OpenFile:
    """A descriptor that closes with its last reference: threads may read what the cache dropped."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


@functools.lru_cache(_OPEN_FILES)
def _open(path: str) -> _OpenFile:
    """Return an open file. A generation has its own name, so a path never gets other bytes."""
    return _OpenFile(path)
