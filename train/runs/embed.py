"""Frozen encoder -> embeddings of segments and videos, as rows of the store."""

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray

from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.base.listener import Progress
from flowcpc.stores.base.plurals import counted
from flowcpc.stores.embedding_parts import EMBEDDING, PartsWriter, opened_parts, run_folder
from flowcpc.stores.embeddings import embeddings_home, vectors_to_arrow
from flowcpc.stores.flow_store import FlowStore, open_store
from flowcpc.stores.layout import WHOLE_VIDEO
from flowcpc.train.data.batches import HostBatch, SegmentReader, choose_device
from flowcpc.train.data.loader import loading
from flowcpc.train.data.selection import covering_segments
from flowcpc.train.model.encoder import Encoder
from flowcpc.train.runs.checkpoint import (
    Checkpoint,
    build_encoder,
    check_numerics,
    require_checkpoint,
)

BATCH_SEGMENTS = 128
SPLITS = ("train", "val", "test")
_SAVE_SEGMENTS = 2048  # embeddings that a kill may cost, at most
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class EmbedResult:
    """What `embed_store` did.

    Attributes
    ----------
    finished : bool
        False when `should_stop` ended the call early; the same call again goes on.
    path : Path
        The folder of the embeddings.
    videos : int
        Videos that were asked for.
    made : int
        Those of them that were embedded now; the others had their embeddings.
    """

    finished: bool
    path: Path
    videos: int
    made: int


def embed_store(
    store_path: str | os.PathLike[str],
    run_path: str | os.PathLike[str],
    *,
    splits: Sequence[str] | None = None,
    batch_size: int = BATCH_SEGMENTS,
    progress: Progress = lambda done, total, fields: None,
    announce: Callable[[str], None] = lambda message: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> EmbedResult:
    """Embed the videos of a store with the encoder of a run; the same call again makes only what is missing.

    Each shot of a video is cut into segments of N flows, one behind the other; the last one is moved back so that it ends with the shot. Frames are
    cropped at the centre, or resized where the encoder was trained so. A row for each, and one for each video with the mean of its segments;
    `flowcpc.stores.embeddings.read_embeddings` reads them. An embedding counts while the weights of the run and the flow of the video are the same; others
    are made anew.

    Killed at any moment, it leaves whole parts. A batch holds segments of one video only, so that a vector does not depend, not even in its last
    bit, on what else was there to embed.

    Parameters
    ----------
    splits : sequence of str, optional
        Only videos of these splits ("train", "val", "test") of the run's fold; every video by default.
    batch_size : int
        Segments at a time, at most. It decides memory, and the values within rounding.

    Raises
    ------
    ValueError
        No video is in `splits`, the store's flow is not of the run's kind, or another process embeds the same.
    FileNotFoundError
        There is no store, or no run.
    OperationError
        An embedding is not a finite number.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    store = open_store(store_path)
    checkpoint = require_checkpoint(run_path)
    check_numerics(checkpoint, store.numerics)
    run = Path(run_path).resolve()
    everything = store.videos()
    videos = _choose(store, everything, checkpoint.config.fold, splits)
    home = embeddings_home(store, run)
    folder = home / f"{run_folder(run.name)}-{checkpoint.config.identity()}"
    if remark := store.remark_on_damage():
        announce(remark)
    with contextlib.ExitStack() as stack:
        if store.path in home.parents:
            stack.enter_context(store.in_use())
        else:
            announce(f"{store.path} cannot be written: the embeddings go to {folder}")
        known = everything["video_id"].tolist()
        writer = stack.enter_context(opened_parts(folder, _about(run.name, checkpoint), known))
        if writer.replaced:
            announce(
                f"{folder} held embeddings of other weights; they are made anew with step {checkpoint.step}"
            )
        valid = videos["video_id"].map(writer.generations) == videos["generation"]
        todo = videos[~valid]
        if len(todo):
            work = _Work(store, checkpoint, todo, writer, batch_size)
            announce(
                f"{counted(len(todo), 'video')} to embed ({counted(len(work.segments.starts), 'segment')}), "
                f"{len(videos) - len(todo)} done already; step {checkpoint.step}, on {work.device.type}"
            )
            made = work.run(run.name, progress, should_stop)
        else:
            announce(f"nothing to do: {counted(len(videos), 'video')} have their embeddings")
            made = 0
        if made == len(todo):
            writer.finish()
    return EmbedResult(made == len(todo), folder, len(videos), made)


class _Work:
    """Videos that are embedded now, in the order of the parts that they go to."""

    def __init__(
        self,
        store: FlowStore,
        checkpoint: Checkpoint,
        todo: pd.DataFrame,
        writer: PartsWriter,
        batch_size: int,
    ) -> None:
        config = checkpoint.config
        parts = todo["video_id"].map(writer.part_of)
        self.videos = todo.assign(part=parts).sort_values(["part", "video_id"], ignore_index=True)
        ids = self.videos["video_id"].tolist()
        self.device = choose_device()
        self._reader = SegmentReader(store, ids, config, self.device)
        self.segments = covering_segments(self._reader.shots, config.num_flows)
        self._checkpoint = checkpoint
        self._writer = writer
        self._batches = _batches(self.segments.videos, batch_size)

    def run(self, run: str, progress: Progress, should_stop: Callable[[], bool]) -> int:
        """Embed them, write them down and return how many were; fewer than all of them after `should_stop`."""
        self._writer.begin()
        made = 0
        waiting: list[pa.Table] = []  # of videos of one part that are not written yet
        parts = self.videos["part"].tolist()
        try:
            with contextlib.closing(self._vectors(progress, should_stop)) as found:
                for place, vectors in found:
                    waiting.append(self._rows(run, place, vectors))
                    made = place + 1
                    is_last = made == len(parts) or parts[made] != parts[place]
                    if is_last or sum(map(len, waiting)) >= _SAVE_SEGMENTS:
                        self._save(waiting)
        finally:
            self._save(waiting)
        return made

    def _save(self, waiting: list[pa.Table]) -> None:
        if waiting:
            table = pa.concat_tables(waiting)
            waiting.clear()
            self._writer.add(self._writer.part_of(table["video_id"][0].as_py()), table)

    def _vectors(
        self, progress: Progress, should_stop: Callable[[], bool]
    ) -> Generator[tuple[int, NDArray[np.float32]], None, None]:
        """Yield (video, vectors of its segments float32 (s, D)) in order, until `should_stop`."""
        encoder = build_encoder(self._checkpoint).to(self.device)
        owners = self.segments.videos
        ours: list[NDArray[np.float32]] = []
        with _exact(), loading(self._read, self._batches) as loaded:
            for part, batch in zip(self._batches, loaded, strict=True):
                place = int(owners[part.start])
                ours.append(self._embed(encoder, batch, place))
                is_last = part.stop == len(owners) or owners[part.stop] != place
                progress(
                    part.stop, len(owners), {"videos": f"{place + is_last}/{len(self.videos)}"}
                )
                if is_last:
                    yield place, np.concatenate(ours)
                    ours.clear()
                if should_stop():
                    return

    def _read(self, part: slice) -> HostBatch:
        chosen = self.segments.part(part)  # one segment a sample
        return self._reader.read(chosen, self._reader.center_corners(chosen.videos, chosen.starts))

    def _embed(self, encoder: Encoder, batch: HostBatch, place: int) -> NDArray[np.float32]:
        with torch.no_grad():
            latents: NDArray[np.float32] = (
                encoder(self._reader.to_device(batch).flatten(0, 1)).float().cpu().numpy()
            )
        if not np.isfinite(latents).all():
            raise OperationError(
                f"the embedding of {self.videos['video_id'][place]} is not finite; its flow or the run's weights are out of bounds"
            )
        return latents

    def _rows(self, run: str, place: int, vectors: NDArray[np.float32]) -> pa.Table:
        """Return the rows of one video: itself, the mean of its segments, and each of them."""
        first, after = np.searchsorted(self.segments.videos, (place, place + 1))
        starts, stops = self.segments.starts[first:after, 0], self.segments.stops[first:after, 0]
        stops = np.minimum(starts + self._checkpoint.config.num_flows, stops)
        video = self.videos.iloc[place]
        count = len(vectors) + 1
        whole = vectors.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
        return pa.table(
            {
                "run": pa.array([run] * count, pa.string()),
                "video_id": pa.array([video["video_id"]] * count, pa.string()),
                "start": np.concatenate([[WHOLE_VIDEO], starts]),
                "stop": np.concatenate([[int(video["flows"])], stops]),
                "generation": pa.array([video["generation"]] * count, pa.string()),
                "step": np.full(count, self._checkpoint.step, np.int64),
                EMBEDDING: vectors_to_arrow(np.concatenate([whole, vectors])),
            }
        )


def _batches(owners: Integers, batch_size: int) -> list[slice]:
    """Return runs of at most `batch_size` segments, each of one video."""
    begins = np.flatnonzero(np.diff(owners, prepend=-1)).tolist()
    edges = zip(begins, [*begins[1:], len(owners)], strict=True)
    return [
        slice(at, min(at + batch_size, after))
        for first, after in edges
        for at in range(first, after, batch_size)
    ]


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """Compute in float32 as it is written: a GPU's faster, shorter products would depend on the batch."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def _choose(
    store: FlowStore, videos: pd.DataFrame, fold: int, splits: Sequence[str] | None
) -> pd.DataFrame:
    """Return the rows of the videos to embed. Raises ValueError for splits that are none, or when there is no video."""
    if splits is not None:
        unknown = sorted(set(splits).difference(SPLITS))
        if unknown or not splits:
            raise ValueError(
                f"splits={','.join(splits)!r} names none of {', '.join(SPLITS)}; write for example train,test"
            )
        column = f"fold{fold}"
        if column not in videos:
            raise ValueError(
                f"{store.path} has no {column}, so its videos are in no split; leave the splits out to embed all of them"
            )
        videos = videos[videos[column].isin(splits)]
    if videos.empty:
        where = "" if splits is None else f" in the splits {', '.join(splits)} of fold {fold}"
        raise ValueError(f"{store.path} has no videos{where}; extract some, or choose other splits")
    return videos.reset_index(drop=True)


def _about(run: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what the embeddings are made by; others than these are not valid."""
    config = checkpoint.config
    return {
        "run": run,
        "config": config.identity(),
        "weights": checkpoint.sha256,
        "step": checkpoint.step,
        "fold": config.fold,
        "num_flows": config.num_flows,
        "size": config.latent_size,
    }
