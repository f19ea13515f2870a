"""One video's codes as an HDF5 file with Blosc and Fletcher-32. The only file that imports h5py.

Chunks are compressed here and bypass HDF5's filters when they are written; any program with the
Blosc filter (hdf5plugin) reads them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
from numcodecs.fletcher32 import Fletcher32

from flowcpc.stores.base.atomic import sync
from flowcpc.stores.codec.blosc import COMPRESSOR, LEVEL
from flowcpc.stores.encoding import Encoding
from flowcpc.stores.layout import ARRAY_NAME, DIMENSIONS


class Hdf5Writer:
    """Writes the chunks of one video in order; has the interface of ZarrWriter."""

    def __init__(
        self, path: Path, chunk: tuple[int, ...], encoding: Encoding, attributes: Mapping[str, Any]
    ) -> None:
        self._path = path
        self._flows = 0
        self.chunks_per_file = 1 << 31  # one file, however long
        self.files = [path]
        self.offsets: list[int] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        # Only the newest format has checksums of metadata.
        self._file = h5py.File(path, "x", libver="latest")
        self._array = self._file.create_dataset(
            ARRAY_NAME,
            shape=(0, *chunk[1:]),
            maxshape=(None, *chunk[1:]),
            chunks=chunk,
            dtype=encoding.dtype,
            fillvalue=encoding.missing,
            fletcher32=True,
            **hdf5plugin.Blosc(cname=COMPRESSOR, clevel=LEVEL, shuffle=hdf5plugin.Blosc.NOSHUFFLE),
        )
        for axis, name in enumerate(DIMENSIONS):
            self._array.dims[axis].label = name
        for name, value in attributes.items():
            self._array.attrs[name] = value

    def write(self, frame: bytes, check: int, flows: int) -> None:
        """Append a chunk of `flows` flows, a Blosc frame; HDF5 has a checksum of its own."""
        start = self._flows
        self._flows += flows
        self._array.resize(self._flows, axis=0)
        self._array.id.write_direct_chunk((start, 0, 0, 0), Fletcher32().encode(frame))

    def close(self) -> None:
        """Finish the array and sync it."""
        chunks: list[tuple[int, int]] = []  # first flow and byte
        self._file.flush()
        self._array.id.chunk_iter(lambda c: chunks.append((c.chunk_offset[0], c.byte_offset)))
        self.offsets = [offset for _, offset in sorted(chunks)]
        self._file.close()
        sync(self._path)

    def abort(self) -> None:
        """Close what is open; the caller removes the file."""
        self._file.close()
