"""One stored video: reads its chunks by position, checks each against the commit, decodes in place.

The commit says where every chunk lies, so neither zarr nor HDF5 is needed.
"""

import dataclasses
import errno
import functools
import math
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.codec.blosc import scratch_bytes
from flowcpc.stores.codec.raw_bytes import SLACK
from flowcpc.stores.codec.window_kernel import read_window
from flowcpc.stores.records.chunk_map import ChunkMap

_CHUNKS_PER_READ, _BYTES_PER_READ = 128, 64 << 20
_OPEN_FILES = 128
Indices = NDArray[np.int64]
Pair = tuple[int, int]
_NO_DAMAGE = (errno.EMFILE, errno.ENFILE, errno.EACCES)


@dataclasses.dataclass(eq=False)
class VideoReader:
    """Reads one video's codes; `FlowStore.open_video` makes one."""

    video_id: str
    store: Path
    shape: tuple[int, int, int, int]  # (flows, 2, H, W)
    dtype: np.dtype[Any]
    flows_per_chunk: int
    chunks: ChunkMap

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return codes of flows [start, stop), (n, 2, H, W). Raises DamagedStoreError."""
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self.read_crop(np.arange(start, stop), (0, 0), self.shape[2:], out)
        return out

    def read_crop(self, flows: Indices, corner: Pair, size: Pair, out: NDArray[Any]) -> None:
        """Write the crop of some flows into `out`, (N, 2, h, w), C-contiguous.

        `flows`, int64 (N,), ascends and may repeat; `corner` is (top, left) and `size` (h, w), px,
        within the video (unchecked). Raises DamagedStoreError if bytes are missing or changed.
        """
        codes = out.view(np.uint8)
        numbers, per_file = flows // self.flows_per_chunk, self.chunks.chunks_per_file
        most = max(1, min(_CHUNKS_PER_READ, _BYTES_PER_READ // self._chunk_bytes))
        done = 0
        while done < len(flows):
            first = int(numbers[done])
            limit = min((first // per_file + 1) * per_file, first + most)
            stop = int(np.searchsorted(numbers, limit))
            piece = slice(first, int(numbers[stop - 1]) + 1)
            self._read_piece(piece, flows[done:stop], corner, size, codes[done:stop].reshape(-1))
            done = stop

    def _read_piece(
        self, piece: slice, flows: Indices, corner: Pair, size: Pair, flat: NDArray[np.uint8]
    ) -> None:
        """Read `flows` out of the chunks `piece`, which are neighbours in one file."""
        offsets, sizes = self.chunks.offsets[piece], self.chunks.sizes[piece]
        begin, end = int(offsets.min()), int((offsets + sizes).max())
        raw, scratch = _buffers.get(end - begin, self._chunk_bytes)
        path = self.store / self.chunks.files[piece.start // self.chunks.chunks_per_file]
        named = f"flows [{flows[0]}, {flows[-1] + 1}) of {self.video_id}"
        if fault := read_at(path, begin, raw[: end - begin]):
            raise damage(named, path, fault)
        where = (offsets - begin, sizes, self.chunks.checks[piece])
        first = piece.start * self.flows_per_chunk
        chunk = (self.flows_per_chunk, *self.shape[2:], self.dtype.itemsize)
        if not read_window(raw, where, first, flows, chunk, corner, size, scratch, flat):
            raise damage(named, path, "a checksum fails")

    @property
    def _chunk_bytes(self) -> int:
        return self.flows_per_chunk * math.prod(self.shape[1:]) * self.dtype.itemsize


class _Buffers(threading.local):
    """Memory for a thread's reads, as large as its largest read so far."""

    def __init__(self) -> None:
        self._raw = np.empty(0, np.uint8)
        self._scratch = np.empty(0, np.uint8)

    def get(self, raw_bytes: int, chunk_bytes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        if len(self._raw) < raw_bytes + SLACK:
            self._raw = np.empty(raw_bytes + SLACK, np.uint8)
        needed = scratch_bytes(chunk_bytes)
        if len(self._scratch) < needed:
            self._scratch = np.empty(needed, np.uint8)
        # The decoder takes the length of a chunk from the length of its buffer.
        return self._raw, self._scratch[:needed]


_buffers = _Buffers()


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


def damage(named: str, path: Path, fault: str) -> DamagedStoreError:
    """Return the error for `named`, items of a video, whose file cannot be used."""
    return DamagedStoreError(
        f"{named} are damaged ({path}: {fault}); flowcpc verify lists all damage and its repair"
    )


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
