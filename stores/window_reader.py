"""Batched reads for training: many segments of many videos into one array, on a thread pool."""

import functools
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.video.frames import FrameFileReader
from flowcpc.stores.video.reader import Indices, Pair, VideoReader


class WindowReader:
    """Reads segments of items from a store: codes of flow, or the frames that it was computed from.

    Flow has C = 2 channels in the encoding's dtype; frames have C = 3, RGB, uint8, and a video has
    one more of them. Each process opens its own videos. A reader can be sent to a process that was
    started by forkserver or spawn, where it reads on one thread. A forked process is refused.

    `read_windows` names the `video_ids` by position. `frames` raises ValueError for a store without
    any. `threads` is how many windows are read at a time; default: all cores of this process.
    """

    def __init__(
        self,
        store: FlowStore,
        video_ids: Sequence[str],
        *,
        frames: bool = False,
        threads: int | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads={threads} must be at least 1, or None for all cores")
        if frames:
            store.require_frames()
        self.store = store
        self._video_ids = list(video_ids)
        self._frames = frames
        self._item = "frame" if frames else "flow"
        self._threads = threads
        self._process = os.getpid()
        self._pool: ThreadPoolExecutor | None = None
        self._videos: dict[int, VideoReader | FrameFileReader] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how another process makes its own reader, which opens its own videos."""
        make = functools.partial(WindowReader, frames=self._frames, threads=1)
        return make, (self.store, self._video_ids)

    def read_windows(
        self,
        videos: Indices,
        starts: Indices,
        count: int,
        *,
        stops: Indices | None = None,
        corners: Indices | None = None,
        size: Pair | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return items [start, start + count) for every start, (B, T, count, C, h, w).

        `videos`, int64 (B,), are positions in `video_ids`. `starts`, int64 (B, T), has the first
        item of every segment, >= 0, and `stops`, int64 (B, T), its end (default: the video's): the
        item before it is repeated. `count` is the items of a segment, >= 1. `corners`, int64
        (B, T, 2), has (top, left) of every crop, px (default: (0, 0)), and `size` is its (h, w)
        (default: whole frames, of videos of one size). The result goes to `out`, C-contiguous.

        Raises ValueError if an argument is out of range, or `out` has another shape or dtype;
        DamagedStoreError if bytes are missing or changed (`out` may be written in part, but never
        holds damaged items); RuntimeError in a fork of the process that made the reader, where its
        threads are gone.
        """
        self._check(videos, starts, count, stops)
        size = size or self._whole_size(videos)
        corners = np.zeros((*starts.shape, 2), np.int64) if corners is None else corners
        if self.store.size is not None:
            self._check_crop(corners, size, self.store.size)
        shape = (*starts.shape, count, 3 if self._frames else 2, *size)
        dtype = FrameFileReader.dtype if self._frames else self.store.encoding.dtype
        target = np.empty(shape, dtype) if out is None else out
        if target.shape != shape or target.dtype != dtype or not target.flags.c_contiguous:
            given = f"out is {target.dtype} {target.shape}"
            raise ValueError(f"{given}; it must be C-contiguous {dtype} {shape}")

        def read(segments: Sequence[Pair]) -> None:
            for b, t in segments:
                video = self._open(int(videos[b]))
                if self.store.size is None:  # otherwise all were checked above
                    owner = f" of {video.video_id}"
                    self._check_crop(corners[b, t], size, video.shape[2:], owner)
                stop = video.shape[0] if stops is None else min(video.shape[0], int(stops[b, t]))
                items = np.minimum(starts[b, t] + np.arange(count), stop - 1)
                top, left = corners[b, t]
                video.read_crop(items, (int(top), int(left)), size, target[b, t])

        self._run(read, list(np.ndindex(starts.shape)))
        return target

    def _run(self, read: Callable[..., None], segments: list[tuple[int, ...]]) -> None:
        """Call `read` with runs of segments on several threads; neighbours share files."""
        most = self._threads or len(os.sched_getaffinity(0))
        threads = min(most, len(segments))
        if threads <= 1:
            read(segments)
            return
        self._pool = self._pool or ThreadPoolExecutor(most, "read-windows")
        edges = itertools.pairwise(len(segments) * k // threads for k in range(threads + 1))
        running = [self._pool.submit(read, segments[begin:end]) for begin, end in edges]
        wait(running)  # all of them, so that none still writes after an error
        for future in running:
            future.result()

    def _open(self, number: int) -> VideoReader | FrameFileReader:
        if number not in self._videos:
            opened = self.store.open_frames if self._frames else self.store.open_video
            self._videos[number] = opened(self._video_ids[number])
        return self._videos[number]

    def _whole_size(self, videos: Indices) -> Pair:
        """Return the one size (height, width) of some videos."""
        if self.store.size is not None:
            return self.store.size
        sizes = {self._open(int(video)).shape[2:]: self._video_ids[video] for video in videos}
        if len(sizes) != 1:
            named = [f"{name} is {size[0]}x{size[1]}" for size, name in sorted(sizes.items())[:2]]
            found = " and ".join(named) or "no video was given"
            problem = f"whole frames in one array need videos of one size, but {found}"
            rule = "give the `size` of a crop, or read videos of one size at a time"
            raise ValueError(f"{problem}; {rule}")
        return next(iter(sizes))

    def _check(self, videos: Indices, starts: Indices, count: int, stops: Indices | None) -> None:
        if os.getpid() != self._process:
            rule = "start loader processes by forkserver or spawn, and create it there"
            raise RuntimeError(f"a WindowReader does not survive a fork; {rule}")
        if count < 1:
            raise ValueError(f"num_{self._item}s={count} must be at least 1")
        last = len(self._video_ids) - 1
        if len(videos) and not 0 <= videos.min() <= videos.max() <= last:
            raise ValueError(f"videos are numbered 0 to {last}, got {videos.tolist()}")
        if (starts < 0).any():
            lowest = int(starts.min())
            raise ValueError(f"a segment must start at {self._item} 0 or later, got {lowest}")
        if stops is not None and (stops <= starts).any():
            at = tuple(np.argwhere(stops <= starts)[0])
            span = f"starts at {self._item} {starts[at]} and stops at {stops[at]}"
            raise ValueError(f"a segment must stop after it starts, but {span}")

    def _check_crop(self, corners: Indices, size: Pair, whole: Pair, owner: str = "") -> None:
        """Raise ValueError unless crops of `size` at `corners` (..., 2) lie within `whole`, px."""
        limit = (whole[0] - size[0], whole[1] - size[1])
        crop = f"a crop of {size[0]}x{size[1]}"
        frame = f"{self._item} of {whole[0]}x{whole[1]}{owner}"
        if min(limit) < 0 or min(size) < 1:
            raise ValueError(f"{crop} does not fit {frame}; give a smaller one")
        if (corners < 0).any() or (corners > np.array(limit)).any():
            raise ValueError(f"{crop} leaves {frame}; corners go from (0, 0) to {limit}")
