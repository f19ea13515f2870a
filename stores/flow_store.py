"""FlowStore: create, open, commit one video atomically, read.

A commit record is the only switch. A video's arrays are written as a new generation under a name of their own, synced,
read back and compared, and only then named by `commits/<hh>/<key>.json`, itself put in place by one rename. Killed at
any moment, a store holds whole videos only.
"""

import contextlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flowcpc.stores import layout
from flowcpc.stores.base.atomic import TEMPORARY_SUFFIX
from flowcpc.stores.base.errors import DamagedStoreError, UnknownVideoError, nearest_name
from flowcpc.stores.base.plurals import counted
from flowcpc.stores.codec.blosc import CODEC
from flowcpc.stores.encoding import encoding_from_json
from flowcpc.stores.records import catalog, garbage, record_file
from flowcpc.stores.records.chunk_map import ChunkMap
from flowcpc.stores.records.commits import digest_of, read_commit
from flowcpc.stores.records.store_file import (
    describe_differences,
    read_store_file,
    without_store_file,
)
from flowcpc.stores.video.frames import FrameFileReader
from flowcpc.stores.video.reader import VideoReader
from flowcpc.stores.video.writer import VideoWriter

Record = dict[str, Any]


def open_store(path: str | os.PathLike[str]) -> "FlowStore":
    """Return the store at `path`.

    Raises FileNotFoundError when there is none and ValueError when it is of another format or format version.
    """
    root = Path(path)
    meta = read_store_file(root)
    return FlowStore(root, meta["array_format"], meta["numerics"])


def create_store(
    path: str | os.PathLike[str], numerics: Mapping[str, Any], array_format: str | None = None
) -> "FlowStore":
    """Return a store at `path` that holds flow of `numerics`: a new one, or the one that is there if its numerics are
    the same.

    `numerics` is everything that decides a stored value: `height` and `width`, or `short_side` where every video has a size of its own,
    `encoding` (Encoding.to_json), `frames` where they are to be stored too, and whatever produced the flow; how arrays are chunked is added
    here. `array_format` is "zarr" (that of a new store unless given) or "hdf5".
    Raises ValueError naming every difference with both values, or when `path` is a folder of something else.
    """
    root = Path(path)
    if array_format not in (None, *layout.ARRAY_FORMATS):
        raise ValueError(
            f"format={array_format!r} is unknown; choose one of {', '.join(layout.ARRAY_FORMATS)}"
        )
    chunking: Record = {"codec": CODEC}
    if "short_side" not in numerics:  # else every commit says it of its own video
        chunking["flows_per_chunk"] = layout.flows_per_chunk(numerics["height"], numerics["width"])
    wanted: Record = json.loads(json.dumps({**numerics, **chunking}))
    if not (root / layout.STORE_FILE).exists():
        if layout.is_remains(root):
            raise ValueError(without_store_file(root))
        if (
            above := next(path for path in (root, *root.absolute().parents) if path.exists())
        ) != root and not above.is_dir():
            raise ValueError(
                f"{root} cannot be a store, because {above} is a file; give another path"
            )
        foreign = root.exists() and (not root.is_dir() or any(map(_is_foreign, root.iterdir())))
        # Asked again: another process may have begun the store, and filled it, since.
        if foreign and not (root / layout.STORE_FILE).exists():
            raise ValueError(
                f"{root} exists and is not a flowcpc store; give a new or empty folder"
            )
        if not foreign:
            meta = {
                "format": layout.FORMAT,
                "format_version": layout.FORMAT_VERSION,
                "array_format": array_format or "zarr",
                "numerics": wanted,
            }
            record_file.write_record(root / layout.STORE_FILE, meta)
    store = open_store(root)
    if array_format not in (None, store.array_format):
        raise ValueError(
            f"store {root} is {store.array_format} and {array_format} was asked for; leave the format out, or give another store"
        )
    differences = describe_differences(store.numerics, wanted)
    if differences:
        raise ValueError(
            f"store {root} was made with other numerics: {'; '.join(differences)}; use the same options, or another store"
        )
    return store


class FlowStore:
    """Optical flow of many videos, with tables over them. Get one from `open_store` or `create_store`.

    Attributes
    ----------
    path : Path
    numerics : dict
        What decides the stored values, as in store.json.
    digest : str
        Of numerics and array format, as in every commit.
    height, width : int or None
        Size of every stored flow, px; None where videos have sizes of their own (columns of `videos`).
    short_side : int or None
        px of the shorter side of every video where they have sizes of their own.
    encoding : Encoding
        Codes <-> px.
    has_frames : bool
        Whether the frames that flow was computed from are stored too.
    array_format : str
        "zarr" or "hdf5".
    """

    def __init__(self, path: Path, array_format: str, numerics: Record) -> None:
        self.path = path
        self.array_format = array_format
        self.numerics = numerics
        self.digest = digest_of(array_format, numerics)
        self.height: int | None = numerics.get("height")
        self.width: int | None = numerics.get("width")
        self.short_side: int | None = numerics.get("short_side")
        self.encoding = encoding_from_json(numerics["encoding"])
        self.has_frames = "frames" in numerics

    # -- tables
    # ----------------------------------------------------------------------------------------------------------------------

    def videos(self) -> pd.DataFrame:
        """Return one row per stored video, sorted by video_id: label, group, folds, flows, fps, statistics, source and
        provenance.
        """
        return catalog.read_table(self.path, "videos")

    def shots(self) -> pd.DataFrame:
        """Return one row per run of flows [start, stop) without a cut or a gap: seconds, mean u, v and |flow| in px, clip rate."""
        return catalog.read_table(self.path, "shots")

    def segments(self) -> pd.DataFrame:
        """Return one row per 10 flows [start, stop) of every shot, the last one shorter: seconds, mean u, v and |flow| in px, clip rate."""
        return catalog.read_table(self.path, "segments")

    def frames(self) -> pd.DataFrame:
        """Return one row per flow: seconds, the mean u, v and |flow| (px) of the decoded full frame, its error, and whether it spans a cut."""
        return catalog.read_table(self.path, "frames")

    def failures(self) -> pd.DataFrame:
        """Return one row per video that belongs to the data set but has no flow, with kind and reason."""
        return catalog.read_table(self.path, "failures")

    def remark_on_damage(self) -> str:
        """Return a sentence on the videos that the tables leave out because their records are damaged; nothing where there are none."""
        damaged = int((self.failures()["kind"] == catalog.KIND_DAMAGED).sum())
        left_out = f"{counted(damaged, 'video')} damaged and in no table but failures; flowcpc verify says what mends that"
        return left_out if damaged else ""

    def tables(self, *names: str) -> dict[str, pd.DataFrame]:
        """Return several tables by name; where no index answers, the records are read once for all of them."""
        return catalog.read_tables(self.path, names)

    def is_indexed(self) -> bool:
        """Return whether the Parquet tables under `index/` are whole and say what the records say."""
        return all(catalog.fresh_index(self.path, name) is not None for name in catalog.TABLES)

    def consolidate(self) -> dict[str, int]:
        """Rebuild the Parquet tables under `index/` from the records; returns the rows of each."""
        return catalog.consolidate(self.path)

    # -- reading
    # ---------------------------------------------------------------------------------------------------------------------

    def read_flow(
        self, video_id: str, start: int = 0, stop: int | None = None
    ) -> NDArray[np.float32]:
        """Return flows [start, stop) of a video, float32 (stop - start, 2, H, W) in px per frame, components (u, v) =
        (x, y).

        Raises UnknownVideoError for an unknown video, ValueError for a range outside it, DamagedStoreError for damaged bytes.
        """
        return self.encoding.decode(self.read_codes(video_id, start, stop))

    def read_codes(self, video_id: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return the stored codes of flows [start, stop), (stop - start, 2, H, W) of the encoding's dtype; raises as `read_flow`."""
        array = self.open_video(video_id)
        return array.read(*_range("flows", video_id, start, stop, array.shape[0]))

    def open_video(self, video_id: str) -> VideoReader:
        """Return a reader of one video's codes, for many reads. Raises UnknownVideoError for an unknown video."""
        commit = self._require_commit(video_id)
        video, chunks = commit["video"], ChunkMap.from_json(commit["chunks"])
        shape = (video["flows"], 2, video["height"], video["width"])
        per_chunk = self.numerics.get("flows_per_chunk") or commit["chunks"]["flows_per_chunk"]
        if not chunks.holds(video["flows"], per_chunk):
            raise self._contradiction(
                video_id, f"its chunks are not those of {video['flows']} flows"
            )
        return VideoReader(video_id, self.path, shape, self.encoding.dtype, per_chunk, chunks)

    def read_frames(
        self, video_id: str, start: int = 0, stop: int | None = None
    ) -> NDArray[np.uint8]:
        """Return frames [start, stop) of a video, uint8 (stop - start, H, W, 3), RGB: one more than it has flows, at the size of its flow.

        Flow t is the way from frame t to frame t + 1. Raises ValueError where the store holds no frames, else as `read_flow`.
        """
        frames = self.open_frames(video_id)
        return frames.read(*_range("frames", video_id, start, stop, frames.shape[0]))

    def open_frames(self, video_id: str) -> FrameFileReader:
        """Return a reader of one video's frames, for many reads. Raises as `read_frames`."""
        self.require_frames()
        commit = self._require_commit(video_id)
        video, chunks = commit["video"], ChunkMap.from_json(commit["jpegs"])
        shape = (video["flows"] + 1, 3, video["height"], video["width"])
        if not chunks.holds(shape[0], 1):
            raise self._contradiction(video_id, f"its JPEGs are not those of {shape[0]} frames")
        return FrameFileReader(video_id, self.path, shape, chunks)

    def require_frames(self) -> None:
        """Raise ValueError where the store holds no frames."""
        if not self.has_frames:
            raise ValueError(
                f"{self.path} holds flow without frames; extract into another store with --with-frames"
            )

    def _require_commit(self, video_id: str) -> Record:
        commit = self.commit_of(video_id)
        if commit is None:
            raise UnknownVideoError(self._unknown(video_id))
        return commit

    def _contradiction(self, video_id: str, what: str) -> DamagedStoreError:
        return DamagedStoreError(
            f"the record of {video_id} in {self.path} contradicts itself: {what}; extract the video again"
        )

    def commit_of(self, video_id: str) -> Record | None:
        """Return the commit record of a video, or None when it is not stored. Raises DamagedStoreError for one that is none of this store."""
        try:
            return read_commit(self.path, layout.record_name(video_id), self.digest)
        except FileNotFoundError:
            return None

    def failure_of(self, video_id: str) -> Record | None:
        """Return the failure record of a video, or None; a damaged one says nothing."""
        try:
            return record_file.read_record(layout.failure_path(self.path, video_id))
        except (FileNotFoundError, DamagedStoreError):
            return None

    def _unknown(self, video_id: str) -> str:
        failure = self.failure_of(video_id)
        if failure is not None:
            return f"{video_id} has no flow in {self.path}: {failure['reason']}"
        nearest = nearest_name(video_id, self.videos()["video_id"])
        hint = f"; did you mean {nearest}?" if nearest else ""
        return f"{video_id} is not in {self.path}{hint}"

    # -- writing
    # ---------------------------------------------------------------------------------------------------------------------

    def write_video(self, video_id: str, size: tuple[int, int] | None = None) -> "VideoWriter":
        """Return a writer of a new generation of a video. Nothing is visible until its `commit`.

        `size` is (height, width) of its flow, px; where all videos have the same it may be left out. Raises ValueError for one that is not the
        store's.
        """
        if self.height is not None and self.width is not None:
            size = size or (self.height, self.width)
            good, rule = size == (self.height, self.width), f"flow of {self.height}x{self.width}"
        else:
            good, rule = (
                size is not None and min(size) == self.short_side,
                f"a shorter side of {self.short_side} px",
            )
        if size is None or not good:
            given = "of no size" if size is None else f"of {size[0]}x{size[1]}"
            raise ValueError(
                f"{video_id} is to be written with flow {given}, and {self.path} takes {rule}; resize it"
            )
        per_chunk = self.numerics.get("flows_per_chunk") or layout.flows_per_chunk(*size)
        return VideoWriter(
            self.path,
            video_id,
            array_format=self.array_format,
            digest=self.digest,
            chunk=(per_chunk, 2, *size),
            encoding=self.encoding,
            with_frames=self.has_frames,
        )

    def relabel(self, commit: Record, source: Mapping[str, Any]) -> None:
        """Rewrite the commit record of a stored video with other values of label, group and folds; its arrays stay."""
        catalog.invalidate(self.path)
        record_file.write_record(
            layout.commit_path(self.path, commit["video_id"]), {**commit, **source}
        )

    def record_failure(self, record: Mapping[str, Any]) -> None:
        """Write down why a video has no flow: video_id, path, label, group, folds, kind, reason, attempts, time and the
        source's stamp.
        """
        catalog.invalidate(self.path)
        record_file.write_record(layout.failure_path(self.path, record["video_id"]), dict(record))

    def set_dataset(self, videos: Sequence[Mapping[str, Any]], all_ids: Collection[str]) -> None:
        """Write down that the store is meant to hold `videos` too, of a data set of `all_ids`; catalog.merge_dataset."""
        catalog.merge_dataset(self.path, videos, all_ids)

    def in_use(self) -> contextlib.AbstractContextManager[None]:
        """Hold the store as one of its writers, so that no other process collects what this one is writing."""
        return garbage.hold(self.path)

    def left_alone(self) -> contextlib.AbstractContextManager[bool]:
        """Hold the store; true where nobody else does."""
        return garbage.left_alone(self.path)

    def collect_garbage(self) -> int:
        """Delete generations that no commit names and temporary files, unless another process is writing. Returns how
        many went.
        """
        return garbage.collect(self.path)


def _is_foreign(entry: Path) -> bool:
    """Whether a folder with this entry was something else before: a lock or a torn temporary file are a store's own."""
    return entry.name != layout.LOCK_FILE and entry.suffix != TEMPORARY_SUFFIX


def _range(what: str, video_id: str, start: int, stop: int | None, count: int) -> tuple[int, int]:
    """Return [start, stop) of `count` flows or frames. Raises ValueError where it lies outside."""
    stop = count if stop is None else stop
    if not 0 <= start <= stop <= count:
        raise ValueError(
            f"{what} [{start}, {stop}) of {video_id} were asked for, but it has {count}; ask within [0, {count})"
        )
    return start, stop
