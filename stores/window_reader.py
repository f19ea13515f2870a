"""Batched window reads for training: many segments of many videos into one preallocated array, on a pool of threads.

`WindowReader` reads the codes of flow, `FrameWindowReader` the frames that it was computed from.
"""

import abc
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.video.frames import FrameFileReader
from flowcpc.stores.video.reader import VideoReader


class _BatchReader(abc.ABC):
    """What both readers do; of what they differ in, `_ITEM` is the word for sentences."""

    _ITEM: ClassVar[str]

    def __init__(
        self, store: FlowStore, video_ids: Sequence[str], *, threads: int | None = None
    ) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads={threads} must be at least 1, or None for all cores")
        self._store = store
        self._video_ids = list(video_ids)
        self._threads = threads
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._videos: dict[int, VideoReader | FrameFileReader] = {}
        self._pool: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: no open videos, no threads beside its own."""
        return {"_store": self._store, "_video_ids": self._video_ids, "_threads": 1}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin anew in the process that this was sent to."""
        self.__dict__.update(state)
        self._begin()

    @abc.abstractmethod
    def _open_video(self, video_id: str) -> VideoReader | FrameFileReader: ...

    def _read(
        self,
        videos: NDArray[np.int64],
        starts: NDArray[np.int64],
        count: int,
        stops: NDArray[np.int64] | None,
        corners: NDArray[np.int64] | None,
        size: tuple[int, int] | None,
        out: NDArray[Any] | None,
        channels: int,
        dtype: np.dtype[Any],
    ) -> NDArray[Any]:
        """Return (B, T, count, channels, h, w) of `dtype`; the arguments are those of `read_windows`."""
        if os.getpid() != self._process:
            raise RuntimeError(
                f"a {type(self).__name__} does not survive a fork; start loader processes by forkserver or spawn, and make it there"
            )
        self._check(videos, starts, count)
        if stops is not None and (stops <= starts).any():
            b, t = np.argwhere(stops <= starts)[0]
            raise ValueError(
                f"a segment starts at {self._ITEM} {starts[b, t]} and stops at {stops[b, t]}; stops are above starts"
            )
        height, width = size or self._whole_size(videos)
        if corners is None:
            corners = np.zeros((*starts.shape, 2), np.int64)
        if self._store.height is not None and self._store.width is not None:
            self._check_crop(corners, (height, width), (self._store.height, self._store.width))
        shape = (*starts.shape, count, channels, height, width)
        if out is None:
            out = np.empty(shape, dtype)
        elif out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
            raise ValueError(
                f"out is {out.dtype} {out.shape}; it must be C-contiguous {dtype} {shape}"
            )
        target = out
        places = [(b, t) for b in range(starts.shape[0]) for t in range(starts.shape[1])]

        def read(part: Sequence[tuple[int, int]]) -> None:
            for b, t in part:
                video = self._open(int(videos[b]))
                if self._store.height is None:  # else all at once, before anything is read
                    self._check_crop(
                        corners[b, t], (height, width), video.shape[2:], f" of {video.video_id}"
                    )
                stop = video.shape[0] if stops is None else min(video.shape[0], int(stops[b, t]))
                items = np.minimum(starts[b, t] + np.arange(count), stop - 1)
                top, left = corners[b, t]
                video.read_crop(items, (int(top), int(left)), (height, width), target[b, t])

        threads = min(self._threads or len(os.sched_getaffinity(0)), len(places))
        if threads <= 1:
            read(places)
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(
                    self._threads or len(os.sched_getaffinity(0)), "read-windows"
                )
            # Neighbours share files, so each thread takes a run of them.
            edges = [len(places) * k // threads for k in range(threads + 1)]
            parts = [places[a:b] for a, b in itertools.pairwise(edges)]
            running = [self._pool.submit(read, part) for part in parts]
            wait(running)  # all of them, so that none still writes when an error leaves
            for future in running:
                future.result()
        return out

    def _open(self, number: int) -> VideoReader | FrameFileReader:
        video = self._videos.get(number)
        if video is None:
            video = self._videos[number] = self._open_video(self._video_ids[number])
        return video

    def _whole_size(self, videos: NDArray[np.int64]) -> tuple[int, int]:
        """Return the one size (height, width) of some videos."""
        if self._store.height is not None and self._store.width is not None:
            return self._store.height, self._store.width
        sizes = {self._open(int(video)).shape[2:]: self._video_ids[video] for video in videos}
        if len(sizes) != 1:
            named = " and ".join(
                f"{video_id} is {size[0]}x{size[1]}" for size, video_id in sorted(sizes.items())[:2]
            )
            raise ValueError(
                f"whole frames go into one array where all are of one size, and {named or 'no video was asked for'}; "
                "give the `size` of a crop, or read videos of one size at a time"
            )
        return next(iter(sizes))

    def _check(self, videos: NDArray[np.int64], starts: NDArray[np.int64], count: int) -> None:
        if count < 1:
            raise ValueError(f"num_{self._ITEM}s={count} must be at least 1")
        if len(videos) and not 0 <= videos.min() <= videos.max() < len(self._video_ids):
            raise ValueError(
                f"videos are numbered 0 to {len(self._video_ids) - 1}; {videos.tolist()} were asked for"
            )
        if (starts < 0).any():
            raise ValueError(
                f"a segment starts at {self._ITEM} {int(starts.min())}; starts are >= 0"
            )

    def _check_crop(
        self,
        corners: NDArray[np.int64],
        size: tuple[int, int],
        whole: tuple[int, int],
        whose: str = "",
    ) -> None:
        """Raise ValueError unless crops of `size` at `corners`, int64 (..., 2), lie within `whole`; sizes are (height, width) in px."""
        limit = (whole[0] - size[0], whole[1] - size[1])
        crop, frame = (
            f"a crop of {size[0]}x{size[1]}",
            f"{self._ITEM} of {whole[0]}x{whole[1]}{whose}",
        )
        if min(limit) < 0 or min(size) < 1:
            raise ValueError(f"{crop} does not fit {frame}; ask for a smaller one")
        if (corners < 0).any() or (corners > np.array(limit)).any():
            raise ValueError(f"{crop} leaves {frame}; corners go from (0, 0) to {limit}")


class WindowReader(_BatchReader):
    """Reads segments of flows from a store. Videos are opened at first use, in every process for itself.

    It may be sent to a process that was started by forkserver or spawn, where it reads on one thread, as one of several such processes; one that
    was forked is refused.

    Parameters
    ----------
    store : FlowStore
    video_ids : sequence of str
        The videos that `read_windows` names by position.
    threads : int, optional
        How many windows are read at a time; all cores of this process unless given.
    """

    _ITEM = "flow"

    def _open_video(self, video_id: str) -> VideoReader:
        return self._store.open_video(video_id)

    def read_windows(
        self,
        videos: NDArray[np.int64],
        starts: NDArray[np.int64],
        num_flows: int,
        *,
        stops: NDArray[np.int64] | None = None,
        corners: NDArray[np.int64] | None = None,
        size: tuple[int, int] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return the codes of flows [start, start + num_flows) for every start, (B, T, N, 2, h, w) of the encoding's dtype.

        Parameters
        ----------
        videos : int64 (B,)
            Positions in `video_ids`.
        starts : int64 (B, T)
            First flow of every segment, >= 0. Past the end of a video its last flow is repeated.
        num_flows : int
            N, >= 1.
        stops : int64 (B, T), optional
            Where every segment ends at the latest, above its start: the flow before is repeated. The end of the video unless given.
        corners : int64 (B, T, 2), optional
            (top, left) of the crop of every segment, px; the same for its N flows. (0, 0) when absent.
        size : (h, w), optional
            Size of the crop; whole frames when absent, of videos of one size.
        out : (B, T, N, 2, h, w) of the encoding's dtype, C-contiguous, optional
            Where to put the result.

        Raises
        ------
        ValueError
            A crop that leaves the frame, whole frames of several sizes, a negative start, a stop that is not above it, no such video, no flow, or
            `out` of another shape or dtype.
        DamagedStoreError
            Bytes are missing or changed. Nothing damaged is ever returned, but `out` may be written in part.
        RuntimeError
            Used in a process forked from the one that made it: its threads are not there, and it would wait for them.
        """
        return self._read(
            videos, starts, num_flows, stops, corners, size, out, 2, self._store.encoding.dtype
        )


class FrameWindowReader(_BatchReader):
    """Reads segments of frames from a store that has them; in all else a WindowReader. Raises ValueError for a store without frames."""

    _ITEM = "frame"

    def __init__(
        self, store: FlowStore, video_ids: Sequence[str], *, threads: int | None = None
    ) -> None:
        store.require_frames()
        super().__init__(store, video_ids, threads=threads)

    def _open_video(self, video_id: str) -> FrameFileReader:
        return self._store.open_frames(video_id)

    def read_windows(
        self,
        videos: NDArray[np.int64],
        starts: NDArray[np.int64],
        num_frames: int,
        *,
        stops: NDArray[np.int64] | None = None,
        corners: NDArray[np.int64] | None = None,
        size: tuple[int, int] | None = None,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Return frames [start, start + num_frames) for every start, uint8 (B, T, N, 3, h, w), RGB.

        Arguments and errors are those of `WindowReader.read_windows`, with frames for flows: a video has one more.
        """
        return self._read(
            videos, starts, num_frames, stops, corners, size, out, 3, FrameFileReader.dtype
        )
