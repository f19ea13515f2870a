"""Video files to gray frames of one size, and to JPEGs of them in colour where they are wanted; what the decoder really gave.

OpenCV's bundled FFmpeg decodes; it turns frames by the file's rotation metadata. Only containers that hold their own
data are opened: a playlist could make FFmpeg read other local files, or ask the network. An extraction does not run this itself: a file that
crashes FFmpeg, or hangs it, is decoded in a process that may die (`decoder.py`).
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

_CONTAINERS = "avi,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegts,mpegvideo,asf,flv,ogg,m4v"
os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = (
    f"format_whitelist;{_CONTAINERS}|protocol_whitelist;file|enable_drefs;0"
)
os.environ.setdefault(
    "OPENCV_FFMPEG_LOGLEVEL", "-8"
)  # a broken video becomes a row in failures, not lines on stderr

import cv2  # noqa: E402  (the variables above are read when a video is opened)
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from flowcpc.pipeline.decoding.frame_size import FrameSize, frames_per_block  # noqa: E402

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# Extensions by which a file in a folder counts as a video.
RESIZE_RULE = "gray, then area where both sides shrink, else bilinear"
# How frames are stored. Most videos have half of the colour's resolution themselves; keeping all of it took a fifth more bytes.
FRAME_CODEC: dict[str, str | int] = {
    "codec": "jpeg",
    "quality": 95,
    "subsampling": "4:2:0",
    "resize": "area where both sides shrink, else bilinear",
}
_JPEG_OPTIONS = (
    cv2.IMWRITE_JPEG_QUALITY,
    int(FRAME_CODEC["quality"]),
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
)
DECODER = f"opencv-ffmpeg {cv2.__version__}"


class VideoError(ValueError):
    """A video file cannot be used; the message says why."""


class FrameReader:
    """Decodes one video to gray frames of `size`, in order.

    From the header: `header_frames` (None where it names no count), `fps`, `header_pixels` of a frame. From `begin`: `source_height` and
    `source_width` as decoded (after rotation), `height` and `width` of the frames. After the frames are used up: `decoded_frames`; `times`, seconds
    of every decoded frame. With `with_jpegs`, `take_jpegs` returns the frames that were yielded since it was last called.

    Raises VideoError when the file cannot be opened, yields no frame or is too long a strip for the size. FFmpeg takes a lack of memory for
    the end of the video.
    """

    def __init__(
        self, path: Path, size: FrameSize, *, threads: int = 1, with_jpegs: bool = False
    ) -> None:
        self._size = size
        self._with_jpegs = with_jpegs
        self._jpegs: list[bytes] = []
        if path.exists() and not path.is_file() and not path.is_dir():
            raise VideoError(
                "is no regular file (a pipe, a socket or a device)"
            )  # opening a pipe waits for its writer
        # A name such as concat:a|b would be a protocol to FFmpeg; a full path never is.
        self._capture = cv2.VideoCapture(
            os.path.abspath(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads]
        )
        if not self._capture.isOpened():
            raise VideoError(_why_unreadable(path))
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.header_frames = int(count) if 0 < count < 1e9 else None
        self.header_pixels = int(
            self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
            * self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)
        )
        self.fps = float(fps) if 0 < fps < 1e6 else None
        self.decoded_frames = 0
        self._stamps: list[float] = []
        self._first: NDArray[np.uint8] | None = None

    def begin(self) -> None:
        """Decode the first frame, which tells the size: a header can say another one than frames have."""
        self._first = self._read()
        if self._first is None:
            raise VideoError("opens, but no frame can be decoded")
        self.source_height, self.source_width = self._first.shape[:2]
        try:
            self.height, self.width = self._size.resolve(self.source_height, self.source_width)
        except ValueError as error:
            raise VideoError(str(error)) from error

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Yield uint8 (H, W) until the decoder gives no more."""
        if self._first is None:
            self.begin()
        frame, self._first = self._first, None
        while frame is not None:
            if self._with_jpegs:
                self._jpegs.append(to_jpeg(frame, self.height, self.width))
            yield to_gray(frame, self.height, self.width)
            frame = self._read()

    def blocks(self, most: int = 32) -> Iterator[NDArray[np.uint8]]:
        """Yield uint8 (n, H, W) with 1 <= n <= `most`, less where frames are large, until the decoder gives no more."""
        if self._first is None:
            self.begin()
        frames, size = self.frames(), frames_per_block(self.height, self.width, most)
        while block := list(itertools.islice(frames, size)):
            yield np.stack(block)

    def take_jpegs(self) -> list[bytes]:
        """Return the frames that were yielded since the last call as JPEGs in colour, and forget them."""
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
        """Seconds of every decoded frame: the presentation times, or frame number / fps where those do not increase
        (AVI with B-frames).
        """
        stamps = np.array(self._stamps, np.float64)
        if np.all(np.diff(stamps) > 0):
            return stamps
        return np.arange(len(stamps)) / (self.fps or 25.0)


def to_gray(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return a decoded frame, uint8 (h, w, 3) BGR, as gray uint8 (height, width)."""
    return _resized(np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8), height, width)


def to_jpeg(frame: NDArray[np.uint8], height: int, width: int) -> bytes:
    """Return a decoded frame, uint8 (h, w, 3) BGR, as a JPEG of `height` x `width` px by FRAME_CODEC."""
    good, jpeg = cv2.imencode(".jpg", _resized(frame, height, width), _JPEG_OPTIONS)
    assert good
    return jpeg.tobytes()


def _resized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    resized = cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return np.asarray(resized, np.uint8)


def _why_unreadable(path: Path) -> str:
    if not path.exists():
        return "the file does not exist"
    if path.is_dir():
        return "is a folder, not a video file"
    if not os.access(path, os.R_OK):
        return "the file may not be read (permissions)"
    if path.stat().st_size == 0:
        return "the file is empty (0 bytes)"
    return "is not a video that can be decoded (unknown or refused container, or no video stream)"
