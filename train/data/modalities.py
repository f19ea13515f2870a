"""What a run sees of a video, flow or images: its reader, its codes and the means to subtract."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.window_reader import WindowReader

# Mean colour of ImageNet, in 0 to 1. Deviations are not divided by: a norm follows the first layer.
IMAGE_MEAN = (0.485, 0.456, 0.406)


@dataclass(frozen=True)
class Modality:
    """What there is to read of a list of V videos."""

    reader: WindowReader  # its `read_windows` gives codes (B, T, N, C, h, w)
    planes: int  # C: flow has 2 components, images have 3 colours
    dtype: np.dtype[Any]  # of the codes
    levels: NDArray[np.float32] | None  # (256,), of every code; None where it is code times `scale`
    scale: float
    # (F, C), what is subtracted from every value of flow, or frame, f of video v: row
    # offsets[v] + f. There are as many rows as flows: a video's last frame begins no segment.
    means: NDArray[np.float32]
    offsets: NDArray[np.int64]  # (V + 1,)


def open_modality(
    store: FlowStore, video_ids: Sequence[str], modality: str, tables: Mapping[str, pd.DataFrame]
) -> Modality:
    """Return the reader of `modality`, flow or image, given a store's tables videos and frames.

    Raises ValueError for images of a store without frames.
    """
    if modality == "flow":
        means = _flow_means(tables["frames"], video_ids)
        code = store.encoding
        reader = WindowReader(store, video_ids)
        return Modality(reader, 2, code.dtype, code.levels, code.scale, *means)
    if not store.has_frames:
        raise ValueError(
            f"modality=image needs frames, and {store.path} holds flow alone; "
            "extract into another store with --with-frames, or set modality=flow"
        )
    frames = WindowReader(store, video_ids, frames=True)
    flows = tables["videos"].set_index("video_id").loc[list(video_ids), "flows"].to_numpy(np.int64)
    offsets = np.cumsum(np.append(0, flows))
    colours = np.broadcast_to(np.array(IMAGE_MEAN, np.float32), (int(offsets[-1]), 3))
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    return Modality(frames, 3, np.dtype(np.uint8), levels, 1.0, colours, offsets)


def _flow_means(
    frames: pd.DataFrame, video_ids: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return means of whole flows, float32 (F, 2), and each video's offset, int64 (V + 1,)."""
    numbers, names = frames["video_id"].factorize()
    # The rows of a video are neighbours.
    begins = np.searchsorted(numbers, np.arange(len(names) + 1))
    place = {name: number for number, name in enumerate(names)}
    rows = [np.arange(begins[place[name]], begins[place[name] + 1]) for name in video_ids]
    offsets = np.cumsum([0, *map(len, rows)])
    means = frames[["mean_u", "mean_v"]].to_numpy(np.float32)
    return means[np.concatenate(rows)], offsets
