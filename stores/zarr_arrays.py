"""One video's flow as a sharded, checksummed zarr v3 array. The only file that imports zarr."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from stores.atomic import sync_file, sync_folder
from stores.encoding import MISSING_CODE
from stores.errors import DamagedStoreError
from stores.layout import ARRAY_NAME, DIMENSIONS, FLOWS_PER_SHARD, flows_per_chunk


class ArrayWriter:
    """Writes codes of one video shard by shard: at most one shard (1,000 flows) is held in memory, each shard is
    written once.
    """

    def __init__(self, path: Path, height: int, width: int, attributes: Mapping[str, Any]) -> None:
        self._path = path
        self._frame_shape = (2, height, width)
        self._chunk = flows_per_chunk(height, width)
        self._attributes = dict(attributes)
        self._pending: list[NDArray[np.uint8]] = []
        self._pending_flows = 0
        self._array: Any = None

    def append(self, codes: NDArray[np.uint8]) -> None:
        """Add flows, uint8 (n, 2, H, W)."""
        while len(codes):
            head, codes = np.split(codes, [FLOWS_PER_SHARD - self._pending_flows])
            self._pending.append(head)
            self._pending_flows += len(head)
            if self._pending_flows == FLOWS_PER_SHARD:
                self._flush()

    def close(self) -> int:
        """Write what is pending, sync every file and return the number of flows. Raises ValueError when there are none."""
        if self._pending_flows:
            self._flush()
        if self._array is None:
            raise ValueError(f"no flow was written to {self._path}; a video needs at least two frames")
        for folder, _, names in os.walk(self._path):
            for name in names:
                sync_file(Path(folder, name))
            sync_folder(Path(folder))
        return int(self._array.shape[0])

    def _flush(self) -> None:
        codes = np.concatenate(self._pending)
        self._pending, self._pending_flows = [], 0
        if self._array is None:
            # A short video gets a shard of its own length: the shard's index has an entry for every chunk it could
            # hold.
            shard = min(FLOWS_PER_SHARD, -(-len(codes) // self._chunk) * self._chunk)
            self._array = zarr.create_group(self._path).create_array(
                ARRAY_NAME,
                shape=codes.shape,
                dtype=codes.dtype,
                chunks=(self._chunk, *self._frame_shape),
                shards=(shard, *self._frame_shape),
                fill_value=MISSING_CODE,
                compressors=ZstdCodec(level=3, checksum=True),
                chunk_key_encoding={"name": "default", "separator": "."},
                dimension_names=DIMENSIONS,
                attributes=self._attributes,
            )
            start = 0
        else:
            start = self._array.shape[0]
            self._array.resize((start + len(codes), *self._frame_shape))
        self._array[start:] = codes


class ArrayReader:
    """Reads slices of one video's codes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._array: Any = zarr.open_array(path / ARRAY_NAME, mode="r")
        except (OSError, ValueError, KeyError) as error:
            raise DamagedStoreError(
                f"{path} cannot be opened as a zarr array ({error}); delete the video's record under commits/ and run extract-flow again"
            ) from error
        self.shape: tuple[int, ...] = self._array.shape

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return codes of flows [start, stop), uint8 (n, 2, H, W). Raises DamagedStoreError when a checksum fails or a
        chunk is missing.
        """
        try:
            codes: NDArray[np.uint8] = self._array[start:stop]
        except (OSError, ValueError, RuntimeError) as error:
            raise DamagedStoreError(
                f"flows [{start}, {stop}) of {self._path} are damaged ({error}); delete the video's record under commits/ and run extract-flow again"
            ) from error
        if codes.size and codes.max() == MISSING_CODE:
            raise DamagedStoreError(
                f"flows [{start}, {stop}) of {self._path} have chunks missing; delete the video's record under commits/ and run extract-flow again"
            )
        return codes
