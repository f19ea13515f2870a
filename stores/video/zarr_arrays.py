"""One video's codes as a sharded, checksummed zarr v3 array. The only file that imports zarr.

zarr-python writes the metadata. Shards are written here, chunk by chunk, so that a video of any
length needs the memory of one chunk, and the place of every chunk is known.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from flowcpc.stores.base.atomic import sync
from flowcpc.stores.codec.blosc import COMPRESSOR, LEVEL
from flowcpc.stores.codec.checksums import crc32c_of
from flowcpc.stores.encoding import Encoding
from flowcpc.stores.layout import ARRAY_NAME, DIMENSIONS, FLOWS_PER_SHARD

_ABSENT = 2**64 - 1  # offset and size of a chunk that a shard does not hold


class ZarrWriter:
    """Writes the chunks of one video, each of shape `chunk`, (flows, 2, H, W), in order.

    `files` are the shards, each with `chunks_per_file` chunks except the last. `offsets` are those
    of every chunk in its file, complete after `close`.
    """

    def __init__(
        self, path: Path, chunk: tuple[int, ...], encoding: Encoding, attributes: Mapping[str, Any]
    ) -> None:
        self._path = path
        self._chunk = chunk
        self._encoding = encoding
        self._attributes = dict(attributes)
        self._flows = 0
        self._shard: IO[bytes] | None = None
        self._sizes: list[int] = []  # of the chunks in the shard that is being written
        self.chunks_per_file = FLOWS_PER_SHARD // chunk[0]
        self.files: list[Path] = []
        self.offsets: list[int] = []
        (path / ARRAY_NAME).mkdir(parents=True)

    def write(self, frame: bytes, check: int, flows: int) -> None:
        """Append a chunk of `flows` flows: a Blosc frame and its CRC32C."""
        if len(self._sizes) == self.chunks_per_file:
            self._finish_shard(self.chunks_per_file)
        if self._shard is None:
            self.files.append(self._path / ARRAY_NAME / f"c.{len(self.files)}.0.0.0")
            self._shard = open(self.files[-1], "xb")  # noqa: SIM115  (open for many calls)
        self.offsets.append(self._shard.tell())
        self._flows += flows
        self._sizes.append(self._shard.write(frame + check.to_bytes(4, "little")))

    def close(self) -> None:
        """Finish the array and sync it."""
        # The index of a shard has an entry for every chunk that fits, so a short video gets a
        # shard of its own length.
        chunks = self.chunks_per_file if len(self.files) > 1 else len(self._sizes)
        self._finish_shard(chunks)
        zarr.create_group(self._path).create_array(
            ARRAY_NAME,
            shape=(self._flows, *self._chunk[1:]),
            dtype=self._encoding.dtype,
            chunks=self._chunk,
            shards=(chunks * self._chunk[0], *self._chunk[1:]),
            fill_value=self._encoding.missing,
            compressors=[
                BloscCodec(typesize=1, cname=COMPRESSOR, clevel=LEVEL, shuffle="noshuffle"),
                Crc32cCodec(),
            ],
            chunk_key_encoding={"name": "default", "separator": "."},
            dimension_names=DIMENSIONS,
            attributes=self._attributes,
        )
        for folder, _, names in os.walk(self._path):
            for name in names:
                sync(Path(folder, name))
            sync(Path(folder))

    def abort(self) -> None:
        """Close what is open; the caller removes the files."""
        if self._shard is not None:
            self._shard.close()

    def _finish_shard(self, chunks: int) -> None:
        assert self._shard is not None
        index = np.full((chunks, 2), _ABSENT, "<u8")
        index[: len(self._sizes)] = np.transpose([self.offsets[-len(self._sizes) :], self._sizes])
        data = index.tobytes()
        self._shard.write(data + crc32c_of(data).to_bytes(4, "little"))
        self._shard.close()
        self._shard, self._sizes = None, []
