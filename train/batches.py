"""Store + selection -> batches on the device: crop, dequantise, subtract the mean."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stores.flow_store import FlowStore
from stores.reader import WindowReader
from train.config import PretrainConfig
from train.selection import CROP, draw_integers, select_sequences

Integers = NDArray[np.int64]
Step = TypeVar("Step")
Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class HostBatch:
    """Segments as the store holds them, in the host's memory.

    Attributes
    ----------
    videos : int64 (B,)
        Positions in the reader's list of videos.
    codes : (B, T, N, 2, h, w) of the store's encoding
    means : float32 (B, T, N, 2)
        Mean of every flow's whole decoded frame, px.
    strides : int64 (B,), or empty where segments were not taken as a sequence
    """

    videos: Integers
    codes: Tensor
    means: Tensor
    strides: Integers


class SegmentReader:
    """Reads cropped segments of a list of videos, in two halves: `read` on any thread, `to_device` where the model runs.

    Parameters
    ----------
    store : FlowStore
    video_ids : sequence of str
    num_flows : int
        N.
    crop : (int, int)
        Height and width, px.
    device : torch.device

    Attributes
    ----------
    flows : int64 (V,)
        Number of flows of every video.
    num_flows : int

    Raises
    ------
    ValueError
        When the crop is larger than the flow of a video.
    """

    def __init__(
        self, store: FlowStore, video_ids: Sequence[str], *, num_flows: int, crop: tuple[int, int], device: torch.device
    ) -> None:
        self._room = _room(store, video_ids, crop)
        self._reader = WindowReader(store, video_ids)
        self._means, self._offsets = _frame_means(store, video_ids)
        self.num_flows = num_flows
        self._crop = crop
        self._device = device
        levels = store.encoding.levels
        self._levels = None if levels is None else torch.from_numpy(levels).to(device)
        self._scale = store.encoding.scale
        self.flows = np.diff(self._offsets)

    def random_corners(self, seed: int, step: int, videos: Integers, places: Sequence[int]) -> Integers:
        """Return (top, left) of random crops of `videos` (B,), each anywhere in its own frame, int64 (B, T, 2).

        Segments of a sample that have the same number in `places` (T,) share one crop.
        """
        count = max(places) + 1
        limits = np.tile(self._room[videos] + 1, (1, count))
        corners = draw_integers(seed, CROP, step, limits).reshape(len(videos), count, 2)
        return np.ascontiguousarray(corners[:, list(places)])

    def center_corners(self, videos: Integers, starts: Integers) -> Integers:
        """Return (top, left) of the central crop of `videos` (B,) for every segment of `starts` (B, T), int64 (B, T, 2)."""
        return np.broadcast_to(self._room[videos][:, None] // 2, (*starts.shape, 2))

    def read(self, videos: Integers, starts: Integers, corners: Integers, strides: Integers | None = None) -> HostBatch:
        """Return the segments of `videos` (B,) that begin at flows `starts` (B, T), cropped at `corners` (B, T, 2)."""
        codes = self._reader.read_windows(videos, starts, self.num_flows, corners=corners, size=self._crop)
        # The reader repeats the last flow of a short video, so its mean is repeated too.
        frames = starts[:, :, None] + np.arange(self.num_flows)
        frames = np.minimum(frames, self.flows[videos][:, None, None] - 1)  # (B, T, N)
        means = torch.from_numpy(self._means[self._offsets[videos][:, None, None] + frames])
        batch = torch.from_numpy(codes)
        if self._device.type == "cuda":
            batch, means = batch.pin_memory(), means.pin_memory()
        return HostBatch(videos, batch, means, np.empty(0, np.int64) if strides is None else strides)

    def to_device(self, batch: HostBatch) -> Tensor:
        """Return stacked flow on the device, float32 (B, T, 2N, h, w) in px, channels u0 v0 u1 v1 ..."""
        codes = batch.codes.to(self._device, non_blocking=True)
        means = batch.means.to(self._device, non_blocking=True)
        return dequantise(codes, means, self._levels, self._scale)


class SequenceReader:
    """Reads sequences for pretraining by step, as `config` selects them; a pure function of (seed, step)."""

    def __init__(
        self, segments: SegmentReader, config: PretrainConfig, seed: int, rank: int = 0, ranks: int = 1
    ) -> None:
        share = config.batch_size // ranks
        self._own = slice(rank * share, (rank + 1) * share)
        self._segments = segments
        self._config = config
        self._seed = seed
        self._places = [0] * config.num_observed + list(range(1, config.num_predicted + 1))

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the videos."""
        return len(self._segments.flows) // self._config.batch_size

    def read(self, step: int) -> HostBatch:
        """Return batch `step`: one crop for the context of a video, another for each segment to predict."""
        config = self._config
        chosen = select_sequences(
            self._segments.flows,
            seed=self._seed,
            step=step,
            batch_size=config.batch_size,
            num_segments=config.num_segments,
            num_flows=config.num_flows,
            selection=config.selection,
            spacing=config.spacing,
        )
        corners = self._segments.random_corners(self._seed, step, chosen.videos, self._places)
        own = self._own
        return self._segments.read(chosen.videos[own], chosen.starts[own], corners[own], chosen.strides[own])


def dequantise(codes: Tensor, means: Tensor, levels: Tensor | None, scale: float = 1.0) -> Tensor:
    """Return flow in px without its frames' means, stacked for the encoder.

    Parameters
    ----------
    codes : (B, T, N, 2, h, w), uint8 where there are levels
    means : float32 (B, T, N, 2)
        What is subtracted: the mean of the whole decoded frame, so that uniform motion becomes zero whatever the crop (paper, section 4.3).
    levels : float32 (256,), optional
        px of every code.
    scale : float
        px per code where there are no levels.

    Returns
    -------
    float32 (B, T, 2N, h, w), channels u0 v0 u1 v1 ...
    """
    if levels is None:  # noqa: SIM108  (two lines are easier to read than one of 130 characters)
        flow = codes.float() * scale
    else:
        flow = torch.index_select(levels, 0, codes.flatten().int()).view(codes.shape)
    flow -= means[..., None, None]
    return flow.flatten(2, 3)


def prefetch(load: Callable[[Step], Loaded], steps: Iterable[Step], *, ahead: int = 2) -> Generator[Loaded, None, None]:
    """Yield `load(step)` for every step in order, loading up to `ahead` further ones on one background thread.

    An exception in `load` is raised where its batch is asked for. Close the iterator (contextlib.closing) to end the thread early.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        pending: deque[Future[Loaded]] = deque()
        try:
            for step in steps:
                pending.append(pool.submit(load, step))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def choose_device() -> torch.device:
    """Return the GPU when there is one, the CPU otherwise."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _room(store: FlowStore, video_ids: Sequence[str], crop: tuple[int, int]) -> Integers:
    """Return how far down and to the right a crop may begin in each video, int64 (V, 2), px. Raises ValueError where it does not fit."""
    sizes = store.videos().set_index("video_id").loc[list(video_ids), ["height", "width"]].to_numpy(np.int64)
    room = sizes - np.array(crop, np.int64)
    small = np.flatnonzero((room < 0).any(axis=1))
    if len(small):
        (height, width), name = sizes[small[0]], video_ids[small[0]]
        if store.height is not None:
            whose = f"the flow in {store.path}, which is {height}x{width}"
        else:
            whose = (
                f"{len(small)} of {len(sizes)} videos in {store.path}, for example {name}, which is {height}x{width}"
            )
        raise ValueError(
            f"size={crop[0]}x{crop[1]} does not fit {whose}; set a smaller size, or extract at a larger size"
        )
    return room


def _frame_means(store: FlowStore, video_ids: Sequence[str]) -> tuple[NDArray[np.float32], Integers]:
    """Return (means float32 (flows, 2), offsets int64 (V + 1)): flow f of video v is row offsets[v] + f."""
    frames = store.frames()
    numbers, names = frames["video_id"].factorize()
    begins = np.searchsorted(numbers, np.arange(len(names) + 1))  # the rows of a video are neighbours
    place = {name: number for number, name in enumerate(names)}
    rows = [np.arange(begins[place[name]], begins[place[name] + 1]) for name in video_ids]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    means = frames[["mean_u", "mean_v"]].to_numpy(np.float32)
    return means[np.concatenate(rows)], offsets
