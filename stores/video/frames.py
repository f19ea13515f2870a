"""The frames of one video: JPEGs, one after the other, a Motion JPEG stream that FFmpeg plays.

The commit keeps offset, size and CRC32C of every JPEG in a ChunkMap, so a window is one read.
"""

import contextlib
import dataclasses
import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowcpc.stores.codec.checksums import crc32c_of
from flowcpc.stores.records.chunk_map import ChunkMap
from flowcpc.stores.video.reader import Indices, Pair, damage, read_at

_BYTES_PER_READ = 16 << 20
_MODE = "RGB"


class FrameFileWriter:
    """Writes the JPEGs of one video, with frames of `size` (height, width), to a new file."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self.path = path
        self._size = size
        self._sizes: list[int] = []
        self._checks: list[int] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = open(path, "xb")  # noqa: SIM115  (it is open for many calls)

    def write(self, jpeg: bytes) -> None:
        """Append a frame. Raises ValueError for anything but an RGB JPEG of this size."""
        image, header = _open_jpeg(jpeg)
        if header != (_MODE, self._size):
            height, width = self._size
            found = f"{image.mode}, {image.height}x{image.width} px" if image else "no JPEG"
            needed = f"a JPEG, {_MODE}, {height}x{width} px"
            raise ValueError(f"a frame of {self.path.name} must be {needed}, got {found}")
        self._file.write(jpeg)
        self._sizes.append(len(jpeg))
        self._checks.append(crc32c_of(jpeg))

    def close(self) -> None:
        """Finish the file and sync it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abort(self) -> None:
        """Close the file; the caller removes it."""
        with contextlib.suppress(OSError):  # a full disk cannot take what is still buffered
            self._file.close()

    def chunk_map(self, root: Path) -> ChunkMap:
        """Return where every frame lies; `root` is the store."""
        sizes, checks = np.array(self._sizes, np.int64), np.array(self._checks, np.int64)
        files = (str(self.path.relative_to(root)),)  # one file, however long
        return ChunkMap(files, 1 << 31, np.cumsum(sizes) - sizes, sizes, checks)


@dataclasses.dataclass(eq=False)
class FrameFileReader:
    """Reads the frames of one video; `FlowStore.open_frames` makes one."""

    dtype: ClassVar[np.dtype[np.uint8]] = np.dtype(np.uint8)
    video_id: str
    store: Path
    shape: tuple[int, int, int, int]  # (frames, 3, H, W)
    chunks: ChunkMap

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return frames [start, stop), uint8 (n, H, W, 3), RGB. Raises DamagedStoreError."""
        out = np.empty((stop - start, *self.shape[2:], self.shape[1]), np.uint8)
        planes = out.transpose(0, 3, 1, 2)
        self.read_crop(np.arange(start, stop), (0, 0), self.shape[2:], planes)
        return out

    def read_crop(self, frames: Indices, corner: Pair, size: Pair, out: NDArray[np.uint8]) -> None:
        """Write the crop of some frames into `out`, uint8 (N, 3, h, w), as VideoReader does."""
        (top, left), (height, width) = corner, size
        for number, image in enumerate(self._images(frames)):
            crop = image.crop((left, top, left + width, top + height))
            out[number] = np.asarray(crop).transpose(2, 0, 1)

    def _images(self, frames: NDArray[np.int64]) -> Iterator[Image.Image]:
        """Yield some frames in order; the file is read in pieces, each frame once."""
        frames, repeats = np.unique(frames, return_counts=True)
        path, begins = self.store / self.chunks.files[0], self.chunks.offsets[frames]
        ends, checks = begins + self.chunks.sizes[frames], self.chunks.checks[frames]
        first = 0
        while first < len(frames):
            within = int(np.searchsorted(ends, begins[first] + _BYTES_PER_READ, side="right"))
            stop = max(first + 1, within)
            named = f"frames [{frames[first]}, {frames[stop - 1] + 1}) of {self.video_id}"
            raw = np.empty(ends[stop - 1] - begins[first], np.uint8)
            if fault := read_at(path, int(begins[first]), raw):
                raise damage(named, path, fault)
            for k in range(first, stop):
                jpeg = raw[begins[k] - begins[first] : ends[k] - begins[first]].tobytes()
                if crc32c_of(jpeg) != checks[k]:
                    raise damage(named, path, "a checksum fails")
                image, header = _open_jpeg(jpeg, load=True)
                if image is None or header != (_MODE, self.shape[2:]):
                    raise damage(named, path, "it is not such a JPEG")
                yield from itertools.repeat(image, repeats[k])
            first = stop


def _open_jpeg(
    data: bytes, *, load: bool = False
) -> tuple[Image.Image | None, tuple[str, tuple[int, int]] | None]:
    """Return a JPEG as an image, with its mode and size (H, W); (None, None) for other data."""
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        if load:
            image.load()
    except OSError:
        return None, None
    return image, (image.mode, (image.height, image.width))
