"""Store + selection -> batches on the device: dequantise, subtract the mean, resize, flip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.data.draws import draw_integers
from flowcpc.train.data.modalities import open_modality
from flowcpc.train.data.pixels import decode_planes, dequantise, mirror, resize
from flowcpc.train.data.selection import CROP, FLIP, Segments, select_sequences
from flowcpc.train.data.shared_memory import empty
from flowcpc.train.data.shots import shots_of
from flowcpc.train.settings.config import PretrainConfig

Integers = NDArray[np.int64]

TABLES = ("videos", "shots", "frames")  # of a store, which a SegmentReader needs
COLUMNS = {"shots": ["video_id", "start", "stop"], "frames": ["video_id", "mean_u", "mean_v"]}


@dataclass(frozen=True)
class HostBatch:
    """Segments (B, T) as the store holds them, in the host's memory."""

    segments: Segments
    # (B, T, N, C, h, w), of the store's encoding with C = 2 components, or uint8 images with C = 3
    # colours. Crops, or whole frames that `to_device` resizes.
    codes: Tensor
    flips: NDArray[np.bool_]  # (B,), which videos `to_device` mirrors


class SegmentReader:
    """Reads segments of a list of videos.

    `read` runs in any thread or loader process, `to_device` in the process of the model.

    The `num_flows`, `size`, `framing` and `rescale_vectors` of `config` say what the encoder sees.
    Several readers may share `tables`, which is `store.tables(*TABLES, columns=COLUMNS)`. Raises
    ValueError if a crop is larger than the flow of a video, or framing=resize and videos differ in
    size.
    """

    def __init__(
        self,
        store: FlowStore,
        video_ids: Sequence[str],
        config: PretrainConfig,
        device: torch.device,
        tables: Mapping[str, pd.DataFrame] | None = None,
    ) -> None:
        tables = tables or store.tables(*TABLES, columns=COLUMNS)
        # Before the sizes, because without frames no size would fit.
        modality = open_modality(store, video_ids, config.modality, tables)
        table = tables["videos"].set_index("video_id").loc[list(video_ids)]
        sizes = table[["height", "width"]].to_numpy(np.int64)
        whole = config.framing == "resize"
        self._frame = _one_size(sizes, store, video_ids) if whole else config.size
        self._room = _room(sizes, self._frame, store, video_ids)
        self._reader, self._planes, self._dtype = modality.reader, modality.planes, modality.dtype
        self._modality, self._device, self._config = modality, device, config
        levels = modality.levels
        self._levels = None if levels is None else torch.from_numpy(levels).to(device)
        self.num_flows = config.num_flows  # N
        self.flows = np.diff(modality.offsets)  # of every video, int64 (V,)
        self.shots = shots_of(tables["shots"], video_ids)  # where segments may lie

    def __getstate__(self) -> dict[str, Any]:
        """Return what a loader process needs to read; the means, which are large, stay here."""
        left_here = ("_modality", "_device", "_levels")
        return {name: value for name, value in self.__dict__.items() if name not in left_here}

    def random_corners(
        self, seed: int, step: int, videos: Integers, places: Sequence[int]
    ) -> Integers:
        """Return (top, left) of random crops of `videos` (B,), int64 (B, T, 2).

        Segments with the same number in `places` (T,) share one crop. Whole frames begin at (0, 0).
        """
        limits = np.tile(self._room[videos] + 1, (1, max(places) + 1))
        corners = draw_integers(seed, CROP, step, limits).reshape(len(videos), -1, 2)
        return np.ascontiguousarray(corners[:, list(places)])

    def center_corners(self, videos: Integers, starts: Integers) -> Integers:
        """Return (top, left) of central crops for segments `starts` (B, T), int64 (B, T, 2)."""
        return np.broadcast_to(self._room[videos][:, None] // 2, (*starts.shape, 2))

    def read(
        self, segments: Segments, corners: Integers, flips: NDArray[np.bool_] | None = None
    ) -> HostBatch:
        """Return `segments` (B, T) cropped at `corners` (B, T, 2), with `flips` (B,) to mirror."""
        shape = (*segments.starts.shape, self.num_flows, self._planes, *self._frame)
        codes = empty(shape, self._dtype)
        self._reader.read_windows(
            segments.videos,
            segments.starts,
            self.num_flows,
            stops=segments.stops,
            corners=corners,
            size=self._frame,
            out=codes.numpy(),
        )
        return HostBatch(segments, codes, np.zeros(shape[0], bool) if flips is None else flips)

    def to_device(self, batch: HostBatch) -> Tensor:
        """Return stacked flow on the device, float32 (B, T, 2N, h, w) in px, channels u0 v0 u1 ...

        Images are (B, T, 3N, h, w), r0 g0 b0 r1 ...
        """
        means, device = torch.from_numpy(self.means_of(batch.segments)), self._device
        if device.type == "cpu" and self._levels is not None:
            flow = decode_planes(batch.codes, means, self._levels)
        else:
            if device.type == "cuda":
                means = means.pin_memory()
            codes, means = (t.to(device, non_blocking=True) for t in (batch.codes, means))
            flow = dequantise(codes, means, self._levels, self._modality.scale)
        if self._config.framing == "resize":
            flow = resize(flow, self._config.size, rescale_vectors=self._config.rescale_vectors)
        mirror(flow, batch.flips, vectors=self._config.modality == "flow")
        return flow.flatten(2, 3)

    def means_of(self, segments: Segments) -> NDArray[np.float32]:
        """Return what is subtracted from every plane, float32 (B, T, N, C).

        For flow it is the mean of its whole decoded frame, px.
        """
        flows = segments.starts[:, :, None] + np.arange(self.num_flows)
        # The reader repeats the last flow of a shot, too.
        flows = np.minimum(flows, segments.stops[:, :, None] - 1)
        begins = self._modality.offsets[segments.videos]
        return self._modality.means[begins[:, None, None] + flows]


class SequenceReader:
    """Reads sequences for pretraining; a pure function of (seed, step).

    The process with number `rank` of `ranks` reads its contiguous part of every batch. All draws
    are for the global batch, so the number of ranks does not change it. Raises ValueError if the
    batch cannot be shared evenly.
    """

    def __init__(
        self,
        segments: SegmentReader,
        config: PretrainConfig,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self._segments, self._config, self._seed = segments, config, seed
        own = config.share_of(ranks)
        self._part = slice(rank * own, (rank + 1) * own)
        # In model 2 most segments are both context and predicted, so all share one crop.
        self._places = [0] * config.num_segments
        if config.model == "model1":
            self._places[config.num_observed :] = range(1, config.num_predicted + 1)

    def read(self, step: int) -> HostBatch:
        """Return this rank's part of batch `step`."""
        return self._segments.read(*self.select(step))

    def select(self, step: int) -> tuple[Segments, Integers, NDArray[np.bool_]]:
        """Return what `read` reads: segments (B, T), corners (B, T, 2), mirrored videos (B,).

        With model 1 the context has one crop and each predicted segment another; with model 2 all
        segments share one.
        """
        config = self._config
        chosen = select_sequences(
            self._segments.shots,
            seed=self._seed,
            step=step,
            batch_size=config.batch_size,
            num_segments=config.num_segments,
            num_flows=config.num_flows,
            selection=config.selection,
            spacing=config.spacing,
        )
        corners = self._segments.random_corners(self._seed, step, chosen.videos, self._places)
        limits = np.full((config.batch_size, 1), 2 if config.flip else 1)
        flips = draw_integers(self._seed, FLIP, step, limits)[:, 0] == 1
        return chosen.part(self._part), corners[self._part], flips[self._part]


def choose_device() -> torch.device:
    """Return the GPU when there is one, the CPU otherwise."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _one_size(sizes: Integers, store: FlowStore, video_ids: Sequence[str]) -> tuple[int, int]:
    """Return the size of all frames. Raises ValueError where there are several."""
    other = np.flatnonzero((sizes != sizes[0]).any(axis=1))
    if len(other):
        named = [f"{video_ids[n]} is {sizes[n][0]}x{sizes[n][1]}" for n in (0, other[0])]
        raise ValueError(
            f"framing=resize needs videos of one size, but in {store.path} {' and '.join(named)}; "
            "set framing=crop, or extract with --size"
        )
    height, width = sizes[0].tolist()
    return height, width


def _room(
    sizes: Integers, crop: tuple[int, int], store: FlowStore, video_ids: Sequence[str]
) -> Integers:
    """Return the largest (top, left) of a crop in each video, int64 (V, 2), px.

    Raises ValueError if it does not fit.
    """
    room = sizes - np.array(crop, np.int64)
    small = np.flatnonzero((room < 0).any(axis=1))
    if len(small):
        (height, width), whose = sizes[small[0]], f"the flow in {store.path}"
        if store.size is None:
            whose = f"{len(small)} of {len(sizes)} videos in {store.path}, for example "
            whose += video_ids[small[0]]
        raise ValueError(
            f"size={crop[0]}x{crop[1]} does not fit {whose}, which is {height}x{width}; "
            "set a smaller size, or extract at a larger size"
        )
    return room
