"""Batched window reads for training: codes of many segments of many videos into one preallocated array."""

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stores.flow_store import FlowStore
from stores.zarr_arrays import ArrayReader

# One read from the first to the last flow of a sequence beats one read per segment until most of what is read is left
# out.
_DENSE_ENOUGH = 3


class WindowReader:
    """Reads segments of flows from a store. Arrays are opened at first use.

    Parameters
    ----------
    store : FlowStore
    video_ids : sequence of str
        The videos that `read_windows` names by position.
    """

    def __init__(self, store: FlowStore, video_ids: Sequence[str]) -> None:
        self._store = store
        self._video_ids = list(video_ids)
        self._arrays: dict[int, ArrayReader] = {}
        self._process = os.getpid()

    def read_windows(
        self,
        videos: NDArray[np.int64],
        starts: NDArray[np.int64],
        num_flows: int,
        *,
        corners: NDArray[np.int64] | None = None,
        size: tuple[int, int] | None = None,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Return the codes of flows [start, start + num_flows) for every start, uint8 (B, T, N, 2, h, w).

        Parameters
        ----------
        videos : int64 (B,)
            Positions in `video_ids`.
        starts : int64 (B, T)
            First flow of every segment, >= 0. Past the end of a video its last flow is repeated.
        num_flows : int
            N.
        corners : int64 (B, T, 2), optional
            (top, left) of the crop of every segment, px; the same for its N flows. Whole frames when absent.
        size : (h, w), optional
            Size of the crop; whole frames when absent.
        out : uint8 (B, T, N, 2, h, w), optional
            Where to put the result.

        Raises
        ------
        ValueError
            A crop that leaves the frame, or a negative start.
        RuntimeError
            Used in a process forked from the one that made it: zarr's threads do not survive a fork.
        """
        if os.getpid() != self._process:
            raise RuntimeError(
                "a WindowReader does not survive a fork; start loader processes by forkserver or spawn, and make it there"
            )
        height, width = size or (self._store.height, self._store.width)
        if corners is None:
            corners = np.zeros((*starts.shape, 2), np.int64)
        self._check(starts, corners, height, width)
        if out is None:
            out = np.empty((*starts.shape, num_flows, 2, height, width), np.uint8)
        for b, video in enumerate(videos):
            array = self._open(int(video))
            frames = np.minimum(starts[b, :, None] + np.arange(num_flows), array.shape[0] - 1)  # (T, N)
            first, last = int(frames.min()), int(frames.max())
            if last + 1 - first <= _DENSE_ENOUGH * frames.size:
                codes, frames = array.read(first, last + 1), frames - first
            else:
                codes = np.concatenate([array.read(int(row[0]), int(row[-1]) + 1) for row in frames])
                lengths = frames[:, -1] - frames[:, 0] + 1
                frames = frames - frames[:, :1] + (np.cumsum(lengths) - lengths)[:, None]
            for t, (top, left) in enumerate(corners[b]):
                out[b, t] = codes[frames[t], :, top : top + height, left : left + width]
        return out

    def _open(self, video: int) -> ArrayReader:
        array = self._arrays.get(video)
        if array is None:
            array = self._arrays[video] = self._store.open_video(self._video_ids[video])
        return array

    def _check(self, starts: NDArray[np.int64], corners: NDArray[np.int64], height: int, width: int) -> None:
        limit = (self._store.height - height, self._store.width - width)
        if min(limit) < 0:
            raise ValueError(
                f"a crop of {height}x{width} does not fit flow of {self._store.height}x{self._store.width}; ask for a smaller one"
            )
        if (corners < 0).any() or (corners > np.array(limit)).any():
            raise ValueError(
                f"a crop of {height}x{width} leaves flow of {self._store.height}x{self._store.width}; corners go from (0, 0) to {limit}"
            )
        if (starts < 0).any():
            raise ValueError(f"a segment starts at flow {int(starts.min())}; starts are >= 0")
