"""The frames of one video: a file of JPEGs, one after the other, written and read.

Such a file is a Motion JPEG stream, which FFmpeg plays. The commit keeps offset, size and CRC32C
of every JPEG in a ChunkMap, so that a window of frames is one read.
"""

import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.codec.checksums import crc32c_of
from flowcpc.stores.records.chunk_map import ChunkMap
from flowcpc.stores.video.open_files import read_at

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
        header = _mode_and_size(_open_jpeg(jpeg))
        if header != (_MODE, self._size):
            raise ValueError(
                f"a frame of {self.path.name} is {header}; it must be a JPEG, {(_MODE, self._size)}"
            )
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

    @property
    def _path(self) -> Path:
        return self.store / self.chunks.files[0]

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return frames [start, stop), uint8 (n, H, W, 3), RGB. Raises DamagedStoreError."""
        out = np.empty((stop - start, *self.shape[2:], self.shape[1]), np.uint8)
        for number, image in enumerate(self._images(np.arange(start, stop))):
            out[number] = np.asarray(image)
        return out

    def read_crop(
        self,
        frames: NDArray[np.int64],
        corner: tuple[int, int],
        size: tuple[int, int],
        out: NDArray[np.uint8],
    ) -> None:
        """Write the crop of some frames into `out`, uint8 (N, 3, h, w), as VideoReader does."""
        (top, left), (height, width) = corner, size
        for number, image in enumerate(self._images(frames)):
            crop = image.crop((left, top, left + width, top + height))
            out[number] = np.asarray(crop).transpose(2, 0, 1)

    def _images(self, frames: NDArray[np.int64]) -> Iterator[Image.Image]:
        """Yield some frames in order; the file is read in pieces."""
        begins = self.chunks.offsets[frames]
        ends = begins + self.chunks.sizes[frames]
        done = 0
        while done < len(frames):
            within = int(np.searchsorted(ends, begins[done] + _BYTES_PER_READ, side="right"))
            last = frames[max(done, within - 1)]
            stop = int(np.searchsorted(frames, last, side="right"))  # with all its repetitions
            raw = np.empty(ends[stop - 1] - begins[done], np.uint8)
            if fault := read_at(self._path, int(begins[done]), raw):
                raise self._damaged(frames[done:stop], fault)
            yield from self._decode(frames[done:stop], raw, begins[done])
            done = stop

    def _decode(
        self, frames: NDArray[np.int64], raw: NDArray[np.uint8], begin: int
    ) -> Iterator[Image.Image]:
        """Yield some frames out of `raw`, bytes of the file from `begin` on."""
        decoded, image = -1, None
        for frame in frames:
            if frame != decoded:
                offset = self.chunks.offsets[frame] - begin
                jpeg = raw[offset : offset + self.chunks.sizes[frame]].tobytes()
                if crc32c_of(jpeg) != self.chunks.checks[frame]:
                    raise self._damaged(frames, "a checksum fails")
                image = _open_jpeg(jpeg, load=True)
                if _mode_and_size(image) != (_MODE, self.shape[2:]):
                    raise self._damaged(frames, "it is not such a JPEG")
                decoded = frame
            assert image is not None
            yield image

    def _damaged(self, frames: NDArray[np.int64], fault: str) -> DamagedStoreError:
        return DamagedStoreError(
            f"frames [{frames[0]}, {frames[-1] + 1}) of {self.video_id} are damaged "
            f"({self._path}: {fault}); flowcpc verify lists all damage and its repair"
        )


def _open_jpeg(data: bytes, *, load: bool = False) -> Image.Image | None:
    """Return the image in a JPEG, its pixels decoded with `load`; None for other data."""
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        if load:
            image.load()
    except OSError:
        return None
    return image


def _mode_and_size(image: Image.Image | None) -> tuple[str, tuple[int, int]] | None:
    return None if image is None else (image.mode, (image.height, image.width))
