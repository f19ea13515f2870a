"""The frames of one video: a file of JPEGs, one behind the other, written and read.

Such a file is a Motion JPEG stream, which FFmpeg plays. A commit record keeps the offset, the size and the CRC32C of every JPEG in a ChunkMap,
so that a window of frames is one read.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.codec.checksums import crc32c_of
from flowcpc.stores.records.chunk_map import ChunkMap
from flowcpc.stores.video.open_files import read_at

_BYTES_PER_READ = 16 << 20
_FORMATS = ("JPEG",)
_MODE = "RGB"


class FrameFileWriter:
    """Writes the JPEGs of one video in order.

    Parameters
    ----------
    path : Path
        The file to make.
    size : (int, int)
        Height and width of every frame, px.
    """

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self.path = path
        self._size = size
        self._sizes: list[int] = []
        self._checks: list[int] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = open(path, "xb")  # noqa: SIM115  (it is open for many calls)

    def write(self, jpeg: bytes) -> None:
        """Append a frame. Raises ValueError for what is no JPEG of three colours and this size."""
        what = _what(jpeg)
        if what != (_MODE, self._size):
            raise ValueError(
                f"a frame of {self.path.name} is {what}; it must be a JPEG, {(_MODE, self._size)}"
            )
        self._file.write(jpeg)
        self._sizes.append(len(jpeg))
        self._checks.append(crc32c_of(jpeg))

    def close(self) -> None:
        """Finish the file and ask the disk to keep it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abort(self) -> None:
        """Close the file; the caller removes it."""
        with contextlib.suppress(
            OSError
        ):  # what cannot be written any more, as on a full disk, goes with the file
            self._file.close()

    def chunk_map(self, root: Path) -> ChunkMap:
        """Return where every frame lies; `root` is the store."""
        sizes, checks = np.array(self._sizes, np.int64), np.array(self._checks, np.int64)
        # One file, however long.
        return ChunkMap(
            (str(self.path.relative_to(root)),), 1 << 31, np.cumsum(sizes) - sizes, sizes, checks
        )


class FrameFileReader:
    """Reads the frames of one video; `FlowStore.open_frames` makes one.

    Attributes
    ----------
    video_id : str
    shape : (int, int, int, int)
        (frames, 3, H, W).
    dtype : numpy.dtype
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, video_id: str, root: Path, shape: tuple[int, int, int, int], chunks: ChunkMap
    ) -> None:
        self.video_id = video_id
        self.shape = shape
        self._path = root / chunks.files[0]
        self._chunks = chunks

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return frames [start, stop), uint8 (n, H, W, 3), RGB. Raises DamagedStoreError where bytes are missing or changed."""
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
        """Put the crop of some frames into `out`, uint8 (N, 3, h, w).

        `frames`, int64 (N,), ascends and may repeat; `corner` is (top, left) and `size` (h, w), px, within the frame; nothing here checks these.
        Raises DamagedStoreError where bytes are missing or changed.
        """
        (top, left), (height, width) = corner, size
        for number, image in enumerate(self._images(frames)):
            crop = image.crop((left, top, left + width, top + height))
            out[number] = np.asarray(crop).transpose(2, 0, 1)

    def _images(self, frames: NDArray[np.int64]) -> Iterator[Image.Image]:
        """Yield some frames in order, some of the file in memory at a time."""
        begins = self._chunks.offsets[frames]
        ends = begins + self._chunks.sizes[frames]
        done = 0
        while done < len(frames):
            within = int(np.searchsorted(ends, begins[done] + _BYTES_PER_READ, side="right"))
            stop = max(done + 1, within)
            stop = int(
                np.searchsorted(frames, frames[stop - 1], side="right")
            )  # all of the last one's repetitions
            raw = np.empty(ends[stop - 1] - begins[done], np.uint8)
            what = read_at(self._path, int(begins[done]), raw)
            if what:
                raise self._damaged(frames[done:stop], what)
            yield from self._decode(frames[done:stop], raw, begins[done])
            done = stop

    def _decode(
        self, frames: NDArray[np.int64], raw: NDArray[np.uint8], begin: int
    ) -> Iterator[Image.Image]:
        """Yield some frames out of `raw`, bytes of the file from `begin` on."""
        held, image = -1, None
        for frame in frames:
            if frame != held:
                offset = self._chunks.offsets[frame] - begin
                jpeg = raw[offset : offset + self._chunks.sizes[frame]].tobytes()
                if crc32c_of(jpeg) != self._chunks.checks[frame]:
                    raise self._damaged(frames, "a checksum fails")
                image = _open_jpeg(jpeg)
                if image is None or (image.mode, (image.height, image.width)) != (
                    _MODE,
                    self.shape[2:],
                ):
                    raise self._damaged(frames, "what was written is no such JPEG")
                held = frame
            assert image is not None
            yield image

    def _damaged(self, frames: NDArray[np.int64], why: str) -> DamagedStoreError:
        return DamagedStoreError(
            f"frames [{frames[0]}, {frames[-1] + 1}) of {self.video_id} are damaged ({self._path}: {why}); "
            "flowcpc verify names all damage and what mends it"
        )


def _what(jpeg: bytes) -> tuple[str, tuple[int, int]] | None:
    """Return what a JPEG's header says, mode and (height, width); None where there is none."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=_FORMATS) as image:
            return image.mode, (image.height, image.width)
    except OSError:
        return None


def _open_jpeg(data: bytes) -> Image.Image | None:
    """Return the picture of a JPEG, or None for anything else."""
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        image.load()
    except OSError:
        return None
    return image
