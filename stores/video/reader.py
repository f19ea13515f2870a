"""One stored video: positional reads of its chunks, each checked against the commit record, decoded straight to where they are wanted.

The same for Zarr and HDF5: a commit says where every chunk lies, so neither library is asked.
"""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.codec.blosc import scratch_bytes
from flowcpc.stores.codec.raw_bytes import SLACK
from flowcpc.stores.codec.window_kernel import INTACT, read_window
from flowcpc.stores.records.chunk_map import ChunkMap
from flowcpc.stores.video.open_files import read_at

_CHUNKS_PER_READ, _BYTES_PER_READ = 128, 64 << 20


class VideoReader:
    """Reads one video's codes; `FlowStore.open_video` makes one.

    Attributes
    ----------
    video_id : str
    shape : (int, int, int, int)
        (flows, 2, H, W).
    dtype : numpy.dtype
    """

    def __init__(
        self,
        video_id: str,
        root: Path,
        shape: tuple[int, int, int, int],
        dtype: np.dtype[Any],
        flows_per_chunk: int,
        chunks: ChunkMap,
    ) -> None:
        self.video_id = video_id
        self.shape = shape
        self.dtype = dtype
        self._root = root
        self._flows_per_chunk = flows_per_chunk
        self._chunks = chunks
        self._chunk_bytes = flows_per_chunk * 2 * shape[2] * shape[3] * dtype.itemsize

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return codes of flows [start, stop), (n, 2, H, W). Raises DamagedStoreError where bytes are missing or changed."""
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self.read_crop(np.arange(start, stop), (0, 0), self.shape[2:], out)
        return out

    def read_crop(
        self,
        flows: NDArray[np.int64],
        corner: tuple[int, int],
        size: tuple[int, int],
        out: NDArray[Any],
    ) -> None:
        """Put the crop of some flows into `out`, (N, 2, h, w), C-contiguous.

        `flows`, int64 (N,), ascends and may repeat; `corner` is (top, left) and `size` (h, w), px, within the frame; nothing here checks these.
        Raises DamagedStoreError where bytes are missing or changed.
        """
        flat = out.reshape(-1).view(np.uint8)
        flow_bytes = 2 * size[0] * size[1] * self.dtype.itemsize
        chunks = flows // self._flows_per_chunk
        most = max(1, min(_CHUNKS_PER_READ, _BYTES_PER_READ // self._chunk_bytes))
        done = 0
        while done < len(flows):
            first = int(chunks[done])
            file = first // self._chunks.chunks_per_file
            limit = min((file + 1) * self._chunks.chunks_per_file, first + most)
            stop = int(np.searchsorted(chunks, limit))
            self._read_piece(
                file,
                first,
                int(chunks[stop - 1]) + 1,
                flows[done:stop],
                corner,
                size,
                flat[done * flow_bytes : stop * flow_bytes],
            )
            done = stop

    def _read_piece(
        self,
        file: int,
        first: int,
        last: int,
        flows: NDArray[np.int64],
        corner: tuple[int, int],
        size: tuple[int, int],
        flat: NDArray[np.uint8],
    ) -> None:
        where = slice(first, last)
        offsets, sizes = self._chunks.offsets[where], self._chunks.sizes[where]
        begin, end = int(offsets.min()), int((offsets + sizes).max())
        raw, scratch = _buffers.get(end - begin, self._chunk_bytes)
        path = self._root / self._chunks.files[file]
        what = read_at(path, begin, raw[: end - begin])
        if what:
            raise self._damaged(path, flows, what)
        state, _ = read_window(
            raw,
            offsets - begin,
            sizes,
            self._chunks.checks[where],
            first * self._flows_per_chunk,
            flows,
            (self._flows_per_chunk, *self.shape[2:]),
            self.dtype.itemsize,
            corner,
            size,
            scratch,
            flat,
        )
        if state != INTACT:
            raise self._damaged(path, flows, "a checksum fails")

    def _damaged(self, path: Path, flows: NDArray[np.int64], why: str) -> DamagedStoreError:
        return DamagedStoreError(
            f"flows [{flows[0]}, {flows[-1] + 1}) of {self.video_id} are damaged ({path}: {why}); "
            "flowcpc verify names all damage and what mends it"
        )


class _Buffers(threading.local):
    """Room for a thread's reads, as large as the largest so far."""

    def __init__(self) -> None:
        self._raw = np.empty(0, np.uint8)
        self._scratch = np.empty(0, np.uint8)

    def get(self, raw_bytes: int, chunk_bytes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        if len(self._raw) < raw_bytes + SLACK:
            self._raw = np.empty(raw_bytes + SLACK, np.uint8)
        if len(self._scratch) < scratch_bytes(chunk_bytes):
            self._scratch = np.empty(scratch_bytes(chunk_bytes), np.uint8)
        # The decoder takes the length of a chunk from the length of its room.
        return self._raw, self._scratch[: scratch_bytes(chunk_bytes)]


_buffers = _Buffers()
