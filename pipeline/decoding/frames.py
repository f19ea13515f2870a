"""Decode video files to gray frames of one size, and to colour JPEGs of them on request.

OpenCV's bundled FFmpeg decodes and applies rotation metadata. Only self-contained formats are
opened: a playlist could make FFmpeg read other local files, or use the network. An extraction runs
this in a process that may crash or hang (`decoder.py`).
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

_CONTAINERS = "avi,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegts,mpegvideo,asf,flv,ogg,m4v"
os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = (
    f"format_whitelist;{_CONTAINERS}|protocol_whitelist;file|enable_drefs;0"
)
# A broken video becomes a row in failures, not lines on stderr.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2  # noqa: E402  (the variables above are read when a video is opened)
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from flowcpc.pipeline.decoding.frame_size import FrameSize, frames_per_block  # noqa: E402

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

RESIZE_RULE = "gray, then area where both sides shrink, else bilinear"
# How frames are stored. Most videos subsample colour too; full colour takes a fifth more bytes.
FRAME_CODEC: dict[str, str | int] = {
    "codec": "jpeg",
    "quality": 95,
    "subsampling": "4:2:0",
    "resize": "area where both sides shrink, else bilinear",
}
_SUBSAMPLING = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)
_JPEG_OPTIONS = (cv2.IMWRITE_JPEG_QUALITY, int(FRAME_CODEC["quality"]), *_SUBSAMPLING)
DECODER = f"opencv-ffmpeg {cv2.__version__}"


class VideoError(ValueError):
    """A video file cannot be used; the message says why."""


class FrameReader:
    """Decodes one video to gray frames of `size`, in order.

    The header gives `header_frames` and `fps` (None if unknown) and `header_pixels` of a frame.
    `begin` sets `source_height` and `source_width` after rotation, `height` and `width` of the
    frames. After the last frame, `decoded_frames` and `times` are complete. Raises VideoError for a
    file that cannot be opened, has no frame or does not fit the size.
    """

    def __init__(
        self, path: Path, size: FrameSize, *, threads: int = 1, with_jpegs: bool = False
    ) -> None:
        self._size = size
        self._with_jpegs = with_jpegs
        self._jpegs: list[bytes] = []
        if path.exists() and not path.is_file() and not path.is_dir():  # opening a pipe would hang
            raise VideoError("is no regular file (a pipe, a socket or a device)")
        # A name such as concat:a|b would be a protocol to FFmpeg; a full path never is.
        self._capture = cv2.VideoCapture(
            os.path.abspath(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads]
        )
        if not self._capture.isOpened():
            raise VideoError(_reason(path))
        names = ("FRAME_COUNT", "FPS", "FRAME_HEIGHT", "FRAME_WIDTH")
        header = (self._capture.get(getattr(cv2, f"CAP_PROP_{name}")) for name in names)
        count, fps, height, width = header
        self.header_frames = int(count) if 0 < count < 1e9 else None
        self.header_pixels = int(height * width)
        self.fps = float(fps) if 0 < fps < 1e6 else None
        self.decoded_frames = 0
        self._stamps: list[float] = []
        self._first: NDArray[np.uint8] | None = None

    def begin(self) -> None:
        """Decode the first frame, which has the true size; that in the header may be wrong."""
        self._first = self._read()
        if self._first is None:
            raise VideoError("opens, but no frame can be decoded")
        self.source_height, self.source_width = self._first.shape[:2]
        try:
            self.height, self.width = self._size.resolve(self.source_height, self.source_width)
        except ValueError as error:
            raise VideoError(str(error)) from error

    def blocks(self, limit: int = 32) -> Iterator[NDArray[np.uint8]]:
        """Yield uint8 (n, H, W), 1 <= n <= `limit`, with fewer frames where they are large."""
        if self._first is None:
            self.begin()
        frames, size = self._frames(), frames_per_block(self.height, self.width, limit)
        while block := list(itertools.islice(frames, size)):
            yield np.stack(block)

    def _frames(self) -> Iterator[NDArray[np.uint8]]:
        frame, self._first = self._first, None
        while frame is not None:
            if self._with_jpegs:
                self._jpegs.append(_to_jpeg(frame, self.height, self.width))
            yield to_gray(frame, self.height, self.width)
            frame = self._read()

    def take_jpegs(self) -> list[bytes]:
        """Return the frames yielded since the last call as JPEGs in colour, if requested."""
        taken, self._jpegs = self._jpegs, []
        return taken

    def _read(self) -> NDArray[np.uint8] | None:
        good, frame = self._capture.read()
        if not good:
            return None
        self._stamps.append(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        self.decoded_frames += 1
        return np.asarray(frame, np.uint8)

    @property
    def times(self) -> NDArray[np.float64]:
        """Times of decoded frames, float64, s: number / fps if the video's do not increase."""
        stamps = np.array(self._stamps, np.float64)
        increase = bool(np.all(np.diff(stamps) > 0))
        return stamps if increase else np.arange(len(stamps)) / (self.fps or 25.0)


def to_gray(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return a decoded frame, uint8 (h, w, 3) BGR, as gray uint8 (height, width)."""
    return _resized(np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8), height, width)


def _to_jpeg(frame: NDArray[np.uint8], height: int, width: int) -> bytes:
    good, jpeg = cv2.imencode(".jpg", _resized(frame, height, width), _JPEG_OPTIONS)
    assert good
    return jpeg.tobytes()


def _resized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def _reason(path: Path) -> str:
    if not path.exists():
        return "the file does not exist"
    if path.is_dir():
        return "is a folder, not a video file"
    if not os.access(path, os.R_OK):
        return "the file may not be read (permissions)"
    if path.stat().st_size == 0:
        return "the file is empty (0 bytes)"
    return "is not a video that can be decoded (unknown or refused container, or no video stream)"
