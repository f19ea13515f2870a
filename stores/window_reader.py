"""Batched reads for training: many segments of many videos into one array, on a thread pool.

`WindowReader` reads the codes of flow, `FrameWindowReader` the frames that it was computed from.
"""

import abc
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.video.frames import FrameFileReader
from flowcpc.stores.video.reader import VideoReader

Integers = NDArray[np.int64]


class _BatchReader(abc.ABC):
    """Reads segments of items, flows or frames, from a store. Each process opens its own videos.

    A reader can be sent to a process that was started by forkserver or spawn, where it reads on one
    thread. A forked process is refused.

    Parameters
    ----------
    store : FlowStore
    video_ids : sequence of str
        The videos that `read_windows` names by position.
    threads : int, optional
        How many windows are read at a time; default: all cores of this process.
    """

    _ITEM: ClassVar[str]
    _CHANNELS: ClassVar[int]

    def __init__(
        self, store: FlowStore, video_ids: Sequence[str], *, threads: int | None = None
    ) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads={threads} must be at least 1, or None for all cores")
        self.store = store
        self._video_ids = list(video_ids)
        self._threads = threads
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._videos: dict[int, VideoReader | FrameFileReader] = {}
        self._pool: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: it opens its own videos and reads on one thread."""
        return {"store": self.store, "_video_ids": self._video_ids, "_threads": 1}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start in the process that this was sent to."""
        self.__dict__.update(state)
        self._begin()

    @abc.abstractmethod
    def _open_video(self, video_id: str) -> VideoReader | FrameFileReader: ...

    @abc.abstractmethod
    def _dtype(self) -> np.dtype[Any]: ...

    def read_windows(
        self,
        videos: Integers,
        starts: Integers,
        count: int,
        *,
        stops: Integers | None = None,
        corners: Integers | None = None,
        size: tuple[int, int] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return items [start, start + count) for every start, (B, T, count, C, h, w).

        Parameters
        ----------
        videos : int64 (B,)
            Positions in `video_ids`.
        starts : int64 (B, T)
            First item of every segment, >= 0. Past the end of a video its last item is repeated.
        count : int
            Items of a segment, >= 1.
        stops : int64 (B, T), optional
            End of every segment, after its start: the item before it is repeated. Default: the end
            of the video.
        corners : int64 (B, T, 2), optional
            (top, left) of the crop of every segment, px. Default: (0, 0).
        size : (h, w), optional
            Size of the crop. Default: whole frames, of videos of one size.
        out : (B, T, count, C, h, w), C-contiguous, optional
            Where to write the result.

        Raises
        ------
        ValueError
            An argument is out of range, or `out` has another shape or dtype.
        DamagedStoreError
            Bytes are missing or changed. Damaged items are never returned, but `out` may be
            written in part.
        RuntimeError
            This process was forked from the one that created the reader, so its threads are gone.
        """
        self._check(videos, starts, count, stops)
        size = size or self._whole_size(videos)
        corners = np.zeros((*starts.shape, 2), np.int64) if corners is None else corners
        if self.store.height is not None and self.store.width is not None:
            self._check_crop(corners, size, (self.store.height, self.store.width))
        shape, dtype = (*starts.shape, count, self._CHANNELS, *size), self._dtype()
        target = np.empty(shape, dtype) if out is None else out
        if target.shape != shape or target.dtype != dtype or not target.flags.c_contiguous:
            raise ValueError(
                f"out is {target.dtype} {target.shape}; it must be C-contiguous {dtype} {shape}"
            )

        def read(segments: Sequence[tuple[int, int]]) -> None:
            for b, t in segments:
                video = self._open(int(videos[b]))
                if self.store.height is None:  # otherwise all were checked above
                    owner = f" of {video.video_id}"
                    self._check_crop(corners[b, t], size, video.shape[2:], owner)
                stop = video.shape[0] if stops is None else min(video.shape[0], int(stops[b, t]))
                items = np.minimum(starts[b, t] + np.arange(count), stop - 1)
                top, left = corners[b, t]
                video.read_crop(items, (int(top), int(left)), size, target[b, t])

        self._run(read, list(np.ndindex(*starts.shape)))
        return target

    def _run(self, read: Any, segments: list[tuple[int, ...]]) -> None:
        """Call `read` with runs of segments on several threads; neighbours share files."""
        most = self._threads or len(os.sched_getaffinity(0))
        threads = min(most, len(segments))
        if threads <= 1:
            read(segments)
            return
        self._pool = self._pool or ThreadPoolExecutor(most, "read-windows")
        edges = [len(segments) * k // threads for k in range(threads + 1)]
        running = [
            self._pool.submit(read, segments[edges[k] : edges[k + 1]]) for k in range(threads)
        ]
        wait(running)  # all of them, so that none still writes after an error
        for future in running:
            future.result()

    def _open(self, number: int) -> VideoReader | FrameFileReader:
        if number not in self._videos:
            self._videos[number] = self._open_video(self._video_ids[number])
        return self._videos[number]

    def _whole_size(self, videos: Integers) -> tuple[int, int]:
        """Return the one size (height, width) of some videos."""
        if self.store.height is not None and self.store.width is not None:
            return self.store.height, self.store.width
        sizes = {self._open(int(video)).shape[2:]: self._video_ids[video] for video in videos}
        if len(sizes) != 1:
            named = [f"{name} is {size[0]}x{size[1]}" for size, name in sorted(sizes.items())[:2]]
            raise ValueError(
                "whole frames in one array need videos of one size, but "
                f"{' and '.join(named) or 'no video was given'}; "
                "give the `size` of a crop, or read videos of one size at a time"
            )
        return next(iter(sizes))

    def _check(
        self, videos: Integers, starts: Integers, count: int, stops: Integers | None
    ) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(
                f"a {type(self).__name__} does not survive a fork; start loader processes by "
                "forkserver or spawn, and create it there"
            )
        if count < 1:
            raise ValueError(f"num_{self._ITEM}s={count} must be at least 1")
        if len(videos) and not 0 <= videos.min() <= videos.max() < len(self._video_ids):
            raise ValueError(
                f"videos are numbered 0 to {len(self._video_ids) - 1}, got {videos.tolist()}"
            )
        if (starts < 0).any():
            raise ValueError(
                f"a segment must start at {self._ITEM} 0 or later, got {int(starts.min())}"
            )
        if stops is not None and (stops <= starts).any():
            b, t = np.argwhere(stops <= starts)[0]
            raise ValueError(
                f"a segment must stop after it starts, but starts at {self._ITEM} {starts[b, t]} "
                f"and stops at {stops[b, t]}"
            )

    def _check_crop(
        self, corners: Integers, size: tuple[int, int], whole: tuple[int, int], owner: str = ""
    ) -> None:
        """Raise ValueError unless crops of `size` at `corners` (..., 2) lie within `whole`, px."""
        limit = (whole[0] - size[0], whole[1] - size[1])
        crop = f"a crop of {size[0]}x{size[1]}"
        frame = f"{self._ITEM} of {whole[0]}x{whole[1]}{owner}"
        if min(limit) < 0 or min(size) < 1:
            raise ValueError(f"{crop} does not fit {frame}; give a smaller one")
        if (corners < 0).any() or (corners > np.array(limit)).any():
            raise ValueError(f"{crop} leaves {frame}; corners go from (0, 0) to {limit}")


class WindowReader(_BatchReader):
    """Reads the codes of segments of flows: 2 channels, the encoding's dtype."""

    _ITEM, _CHANNELS = "flow", 2

    def _open_video(self, video_id: str) -> VideoReader:
        return self.store.open_video(video_id)

    def _dtype(self) -> np.dtype[Any]:
        return self.store.encoding.dtype


class FrameWindowReader(_BatchReader):
    """Reads segments of frames: 3 channels (RGB), uint8. A video has one more frame than flows.

    Raises ValueError for a store without frames.
    """

    _ITEM, _CHANNELS = "frame", 3

    def __init__(
        self, store: FlowStore, video_ids: Sequence[str], *, threads: int | None = None
    ) -> None:
        store.require_frames()
        super().__init__(store, video_ids, threads=threads)

    def _open_video(self, video_id: str) -> FrameFileReader:
        return self.store.open_frames(video_id)

    def _dtype(self) -> np.dtype[Any]:
        return FrameFileReader.dtype
