"""Frozen encoder -> embeddings of segments and videos, as rows of the store."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from stores.embeddings import write_embeddings
from stores.flow_store import open_store
from stores.layout import WHOLE_VIDEO
from stores.progress import Progress
from stores.words import counted
from train.batches import HostBatch, SegmentReader, choose_device
from train.checkpoint import build_encoder, check_numerics, require_checkpoint
from train.loader import loading
from train.selection import covering_segments
from train.splits import fold_column

_BATCH_SEGMENTS = 128


@dataclass(frozen=True)
class EmbedResult:
    """What `embed_store` wrote.

    Attributes
    ----------
    finished : bool
        False when `should_stop` ended the call early; nothing was written then.
    path : Path or None
        The folder of the embeddings.
    rows : int
        Embeddings written, of segments and of videos.
    """

    finished: bool
    path: Path | None
    rows: int


def embed_store(
    store_path: str | os.PathLike[str],
    run_path: str | os.PathLike[str],
    *,
    splits: Sequence[str] | None = None,
    progress: Progress = lambda done, total, fields: None,
    announce: Callable[[str], None] = lambda message: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> EmbedResult:
    """Embed the videos of a store with the encoder of a run, replacing earlier embeddings of the same run.

    Each shot of a video is cut into segments of N flows, one behind the other; the last one is moved back so that it ends with the shot. Frames are
    cropped at the centre, or resized where the encoder was trained so. Rows: video_id, start (first flow; -1 for the mean of the video's segments),
    label, group, split (in the run's fold) and step of the run; `stores.embeddings.read_embeddings` reads them.

    Parameters
    ----------
    splits : sequence of str, optional
        Only videos of these splits ("train", "val", "test") of the run's fold; every video by default.

    Raises
    ------
    ValueError
        No video is in `splits`, or the store's flow is not of the run's kind.
    FileNotFoundError
        There is no store, or no run.
    """
    store = open_store(store_path)
    checkpoint = require_checkpoint(run_path)
    check_numerics(checkpoint, store.numerics)
    config = checkpoint.config
    videos = store.videos()
    if splits is not None:
        videos = videos[videos[fold_column(videos, config.fold)].isin(splits)].reset_index(drop=True)
    if videos.empty:
        where = "" if splits is None else f" in the splits {', '.join(splits)} of fold {config.fold}"
        raise ValueError(f"{store.path} has no videos{where}; extract some, or choose other splits")
    device = choose_device()
    encoder = build_encoder(checkpoint).to(device)
    reader = SegmentReader(store, videos["video_id"].tolist(), config, device)
    segments = covering_segments(reader.shots, config.num_flows)
    places, starts = segments.videos, segments.starts[:, 0]
    announce(
        f"embedding {counted(len(starts), 'segment')} of {counted(len(videos), 'video')} with step {checkpoint.step}, on {device.type}"
    )

    if remark := store.remark_on_damage():
        announce(remark)

    def read(first: int) -> HostBatch:
        chosen = segments.part(slice(first, first + _BATCH_SEGMENTS))  # one segment a sample
        return reader.read(chosen, reader.center_corners(chosen.videos, chosen.starts))

    vectors = np.empty((len(starts), config.latent_size), np.float32)
    done = 0
    firsts = range(0, len(starts), _BATCH_SEGMENTS)
    with torch.no_grad(), loading(read, firsts) as loaded:
        for batch in loaded:
            latents = encoder(reader.to_device(batch).flatten(0, 1)).cpu().numpy()
            vectors[done : done + len(latents)] = latents
            done += len(latents)
            progress(done, len(starts), {"videos": str(int(batch.videos[-1]) + 1)})
            if should_stop():
                return EmbedResult(False, None, 0)

    rows, vectors = _with_whole_videos(places, starts, vectors)
    place = rows["place"].to_numpy()
    split = f"fold{config.fold}"
    table = pd.DataFrame(
        {
            **{name: videos[name].take(place).to_list() for name in ("video_id", "label", "group")},
            "start": rows["start"].to_numpy(),
            "split": videos[split].take(place).to_list() if split in videos else None,
            "step": checkpoint.step,
        }
    )
    path = write_embeddings(store, Path(run_path).resolve().name, config.identity(), table, vectors)
    return EmbedResult(True, path, len(table))


def _with_whole_videos(
    places: NDArray[np.int64], starts: NDArray[np.int64], vectors: NDArray[np.float32]
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """Return rows (place, start) and vectors with the mean of each video's segments put in front of them."""
    firsts = np.flatnonzero(np.diff(places, prepend=-1))
    means = np.add.reduceat(vectors, firsts, axis=0, dtype=np.float64)
    means /= np.diff(np.append(firsts, len(places)))[:, None]
    whole = pd.DataFrame({"place": places[firsts], "start": WHOLE_VIDEO})
    rows = pd.concat([whole, pd.DataFrame({"place": places, "start": starts})], ignore_index=True)
    order = rows.sort_values(["place", "start"], kind="stable").index
    together = np.concatenate([means.astype(np.float32), vectors])
    return rows.loc[order], together[order.to_numpy()]
