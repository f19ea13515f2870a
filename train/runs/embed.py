"""Frozen encoder -> embeddings of segments and videos, as rows of the store."""

import contextlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray

from flowcpc.stores.base.errors import OperationError, counted
from flowcpc.stores.base.listener import SILENT, Listener
from flowcpc.stores.embedding_parts import EMBEDDING, PartsWriter, opened_parts, run_folder
from flowcpc.stores.embeddings import embeddings_home, vectors_to_arrow
from flowcpc.stores.flow_store import FlowStore, open_store
from flowcpc.stores.layout import WHOLE_VIDEO
from flowcpc.train.data.batches import HostBatch, SegmentReader, choose_device
from flowcpc.train.data.loader import loading
from flowcpc.train.data.selection import covering_segments
from flowcpc.train.runs.checkpoint import (
    Checkpoint,
    build_encoder,
    check_numerics,
    require_checkpoint,
)

BATCH_SEGMENTS = 128
SPLITS = ("train", "val", "test")
_UNSAVED_SEGMENTS = 2048  # at most so many embeddings are lost when the process is killed


@dataclass(frozen=True)
class EmbedResult:
    """What `embed_store` did."""

    finished: bool  # False if the listener stopped the call early; call it again to resume
    path: Path  # the folder of the embeddings
    videos: int  # that were asked for
    made: int  # of them that were embedded by this call; the others had embeddings already


def embed_store(
    store_path: str | os.PathLike[str],
    run_path: str | os.PathLike[str],
    *,
    splits: Sequence[str] | None = None,
    batch_size: int = BATCH_SEGMENTS,
    listener: Listener = SILENT,
) -> EmbedResult:
    """Embed the videos of a store with the encoder of a run. A later call embeds what is missing.

    Each shot is cut into consecutive segments of N flows; the last segment is moved back so that it
    ends with the shot. Frames are cropped at the centre, or resized if the encoder was trained on
    resized frames. Each segment gets a row, and each video a row with the mean of its segments;
    `flowcpc.stores.embeddings.read_embeddings` reads them. An embedding is valid while the weights
    of the run and the flow of the video stay the same; the others are computed again.

    The call can be killed at any time; only complete parts are kept. A batch holds segments of one
    video only, so a vector never depends on which other videos are embedded. The size of a batch,
    at most `batch_size` segments, changes memory use, and values within rounding. With `splits`
    ("train", "val", "test"), only videos of these splits of the run's fold are embedded.

    Raises ValueError if `splits` selects no video, the store's numerics differ from the run's, or
    another process is writing the same embeddings; FileNotFoundError if the store or the run does
    not exist; OperationError if an embedding is not finite.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    store = open_store(store_path)
    checkpoint = require_checkpoint(run_path)
    check_numerics(checkpoint, store.numerics)
    run = Path(run_path).resolve()
    all_videos = store.videos()
    videos = _choose(store, all_videos, checkpoint.config.fold, splits)
    home = embeddings_home(store, run)
    folder = home / f"{run_folder(run.name)}-{checkpoint.config.identity()}"
    if remark := store.remark_on_damage():
        listener.announce(remark)
    with contextlib.ExitStack() as stack:
        if store.path in home.parents:
            stack.enter_context(store.in_use())
        else:
            listener.announce(f"{store.path} is not writable: the embeddings go to {folder}")
        ids = all_videos["video_id"].tolist()
        writer = stack.enter_context(opened_parts(folder, _identity(run.name, checkpoint), ids))
        if writer.replaced:
            listener.announce(
                f"{folder} held embeddings of other weights; they are replaced by those of "
                f"step {checkpoint.step}"
            )
        is_done = videos["video_id"].map(writer.generations) == videos["generation"]
        todo, made = videos[~is_done], 0
        if todo.empty:
            known = counted(len(videos), "video")
            listener.announce(f"nothing to do: {known} have their embeddings")
        else:
            listener.announce(
                f"{counted(len(todo), 'video')} to embed, {is_done.sum()} done already; "
                f"step {checkpoint.step}, on {choose_device().type}"
            )
            made = _embed_videos(store, checkpoint, run.name, todo, writer, batch_size, listener)
        if made == len(todo):
            writer.finish()
    return EmbedResult(made == len(todo), folder, len(videos), made)


def _embed_videos(
    store: FlowStore,
    checkpoint: Checkpoint,
    run: str,
    videos: pd.DataFrame,
    writer: PartsWriter,
    batch_size: int,
    listener: Listener,
) -> int:
    """Embed `videos`, save their rows part by part, and return how many videos were embedded."""
    videos = videos.assign(part=videos["video_id"].map(writer.part_of))
    videos = videos.sort_values(["part", "video_id"], ignore_index=True)
    is_last_of_part = ~videos["part"].duplicated(keep="last")
    device, num_flows = choose_device(), checkpoint.config.num_flows
    reader = SegmentReader(store, videos["video_id"].tolist(), checkpoint.config, device)
    segments = covering_segments(reader.shots, num_flows)
    encoder = build_encoder(checkpoint).to(device)

    def read(rows: slice) -> HostBatch:
        chosen = segments.part(rows)
        return reader.read(chosen, reader.center_corners(chosen.videos, chosen.starts))

    def save() -> None:
        if unsaved:
            table = pa.concat_tables(unsaved)
            unsaved.clear()
            writer.add(writer.part_of(table["video_id"][0].as_py()), table)

    # Full float32: a GPU's faster, shorter products would depend on the batch.
    flags = {"benchmark": False, "deterministic": True, "allow_tf32": False}
    exact = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, **flags)
    writer.begin()
    made = 0
    unsaved: list[pa.Table] = []  # rows of videos of one part
    latents: list[NDArray[np.float32]] = []  # of the current video
    batches, total = _batches_within_videos(segments.videos, batch_size), len(segments.videos)
    try:
        with exact, torch.no_grad(), loading(read, batches) as loaded:
            for rows, batch in zip(batches, loaded, strict=True):
                number = int(segments.videos[rows.start])
                video = videos.iloc[number]
                latents.append(encoder(reader.to_device(batch).flatten(0, 1)).float().cpu().numpy())
                if not np.isfinite(latents[-1]).all():
                    raise OperationError(
                        f"the embedding of {video['video_id']} is not finite; "
                        "check the flow of the video and the weights of the run"
                    )
                is_end = rows.stop == total or segments.videos[rows.stop] != number
                fields = {"videos": f"{number + is_end}/{len(videos)}"}
                listener.progress(rows.stop, total, fields)
                if is_end:
                    vectors = np.concatenate(latents)
                    mine = segments.part(slice(rows.stop - len(vectors), rows.stop))
                    starts = mine.starts[:, 0]
                    stops = np.minimum(starts + num_flows, mine.stops[:, 0])
                    unsaved.append(_rows(run, checkpoint.step, video, starts, stops, vectors))
                    latents.clear()
                    made = number + 1
                    if is_last_of_part[number] or sum(map(len, unsaved)) >= _UNSAVED_SEGMENTS:
                        save()
                if listener.should_stop():
                    break
    finally:
        save()
    return made


def _rows(
    run: str,
    step: int,
    video: "pd.Series[Any]",
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    vectors: NDArray[np.float32],
) -> pa.Table:
    """Return a row for the video, with the mean of its segments, and a row for each segment."""
    count = len(vectors) + 1
    mean = vectors.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
    columns = {
        "run": pa.array([run] * count, pa.string()),
        "video_id": pa.array([video["video_id"]] * count, pa.string()),
        "start": np.concatenate([[WHOLE_VIDEO], starts]),
        "stop": np.concatenate([[int(video["flows"])], stops]),
        "generation": pa.array([video["generation"]] * count, pa.string()),
        "step": np.full(count, step, np.int64),
        EMBEDDING: vectors_to_arrow(np.concatenate([mean, vectors])),
    }
    return pa.table(columns)


def _batches_within_videos(videos: NDArray[np.int64], batch_size: int) -> list[slice]:
    """Return slices of at most `batch_size` segments of one video, given the video of each."""
    edges = np.flatnonzero(np.diff(videos, prepend=-1, append=-1)).tolist()
    return [
        slice(start, min(start + batch_size, stop))
        for first, stop in itertools.pairwise(edges)
        for start in range(first, stop, batch_size)
    ]


def _choose(
    store: FlowStore, videos: pd.DataFrame, fold: int, splits: Sequence[str] | None
) -> pd.DataFrame:
    """Return the rows of the videos to embed. Raises ValueError for wrong splits or no video."""
    where = ""
    if splits is not None:
        if not splits or not set(splits) <= set(SPLITS):
            raise ValueError(
                f"splits must be some of {', '.join(SPLITS)}, got {','.join(splits)!r}; "
                "write for example train,test"
            )
        column = f"fold{fold}"
        if column not in videos:
            raise ValueError(
                f"{store.path} has no {column}, so its videos are in no split; "
                "omit the splits to embed all of them"
            )
        videos = videos[videos[column].isin(splits)]
        where = f" in the splits {', '.join(splits)} of fold {fold}"
    if videos.empty:
        raise ValueError(f"{store.path} has no videos{where}; extract some, or choose other splits")
    return videos.reset_index(drop=True)


def _identity(run: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what decides the embeddings; only those of the same identity are valid."""
    config = checkpoint.config
    sizes = {"fold": config.fold, "num_flows": config.num_flows, "size": config.latent_size}
    weights = {"config": config.identity(), "weights": checkpoint.sha256, "step": checkpoint.step}
    return {"run": run, **weights, **sizes}
