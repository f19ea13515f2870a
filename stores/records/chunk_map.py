"""Where in a video's files each of its chunks lies: a Blosc frame of whole flows, or a JPEG.

Files hold chunks in order, so that a window is one read.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores.records.contract import PackedChunks
from flowcpc.stores.records.record_file import pack_array, unpack_array


@dataclass(frozen=True)
class ChunkMap:
    """Where every chunk of a video is, without the format's own checksum. Arrays are int64 (n,)."""

    files: tuple[str, ...]  # relative to the store, each of `chunks_per_file` except the last
    chunks_per_file: int
    offsets: NDArray[np.int64]  # first byte in its file
    sizes: NDArray[np.int64]  # bytes
    checks: NDArray[np.int64]  # CRC32C of these bytes

    def holds(self, flows: int, flows_per_chunk: int) -> bool:
        """Return whether the map fits this many flows. Kernels that use the map check no bounds."""
        count = -(-flows // flows_per_chunk) if flows_per_chunk > 0 else -1
        files = -(-count // self.chunks_per_file) if self.chunks_per_file > 0 else -1
        lengths = {len(self.offsets), len(self.sizes), len(self.checks)}
        within = bool((self.offsets >= 0).all() and (self.sizes >= 0).all())
        return within and lengths == {count} and len(self.files) == files

    def to_json(self) -> PackedChunks:
        """Return the map as a commit record keeps it; `from_json` is the inverse."""
        # Between chunks lie only checksums: the gaps compress to nothing.
        gaps = np.diff(self.offsets, prepend=0)
        gaps[1:] -= self.sizes[:-1]
        return {
            "files": list(self.files),
            "chunks_per_file": self.chunks_per_file,
            "gaps": pack_array(gaps, "<i8"),
            "sizes": pack_array(self.sizes, "<u4"),
            "crc32c": pack_array(self.checks, "<u4"),
        }

    @staticmethod
    def from_json(value: PackedChunks) -> "ChunkMap":
        """Return the map that a commit record keeps."""
        sizes = unpack_array(value["sizes"], "<u4").astype(np.int64)
        steps = unpack_array(value["gaps"], "<i8").astype(np.int64)
        steps[1:] += sizes[:-1]
        checks = unpack_array(value["crc32c"], "<u4").astype(np.int64)
        files = tuple(value["files"])
        return ChunkMap(files, value["chunks_per_file"], np.cumsum(steps), sizes, checks)
