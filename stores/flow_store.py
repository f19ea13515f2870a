"""FlowStore: create, open, commit one video atomically, read.

Only a commit makes a video valid. Its arrays are written as a new generation under a new name,
synced, read back and compared. Then one rename puts the commit, which names them, in place.
"""

import contextlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flowcpc.stores import layout
from flowcpc.stores.base.atomic import TEMPORARY_SUFFIX
from flowcpc.stores.base.errors import DamagedStoreError, UnknownVideoError, counted, nearest_name
from flowcpc.stores.base.locks import locked, shared_by_last
from flowcpc.stores.codec.blosc import CODEC
from flowcpc.stores.encoding import encoding_from_json
from flowcpc.stores.records import catalog, garbage, record_file, store_file
from flowcpc.stores.records.chunk_map import ChunkMap
from flowcpc.stores.records.commits import digest_of, read_commit
from flowcpc.stores.records.contract import CommitRecord, FailureRecord, Numerics, SourceRecord
from flowcpc.stores.records.dataset_file import merge_dataset
from flowcpc.stores.video.frames import FrameFileReader
from flowcpc.stores.video.reader import VideoReader
from flowcpc.stores.video.writer import VideoWriter


def open_store(path: str | os.PathLike[str]) -> "FlowStore":
    """Return the store at `path`.

    Raises FileNotFoundError if there is none, ValueError for another format or format version.
    """
    return FlowStore(Path(path), *store_file.read_store_file(Path(path)))


def create_store(
    path: str | os.PathLike[str], numerics: Mapping[str, Any], array_format: str | None = None
) -> "FlowStore":
    """Return a new store at `path`, or the existing one if its numerics are the same.

    `numerics` is everything that decides a stored value: `height` and `width`, or `short_side` if
    every video has a size of its own; `encoding` (Encoding.to_json); `frames` if frames are stored
    too; the settings of the solver. How arrays are chunked is added here. `array_format` is "zarr"
    (the default of a new store) or "hdf5". Raises ValueError if the numerics differ (each
    difference is named), or `path` is a folder of something else.
    """
    root = Path(path)
    if array_format not in (None, *layout.ARRAY_FORMATS):
        choices = ", ".join(layout.ARRAY_FORMATS)
        raise ValueError(f"format={array_format!r} is unknown; choose one of {choices}")
    wanted = {**numerics, "codec": CODEC}
    if "short_side" not in numerics:  # otherwise each commit holds that of its video
        wanted["flows_per_chunk"] = layout.flows_per_chunk(numerics["height"], numerics["width"])
    wanted = json.loads(json.dumps(wanted))
    file = root / layout.STORE_FILE
    if not file.exists():
        _check_new_folder(root)
        meta = {"format": layout.FORMAT, "format_version": layout.FORMAT_VERSION}
        meta |= {"array_format": array_format or "zarr", "numerics": wanted}
        root.mkdir(parents=True, exist_ok=True)
        # In use: garbage collection by another process that is creating it would delete this file.
        with locked(root / layout.LOCK_FILE, shared=True):
            if not file.exists():  # the other process may have been faster
                record_file.write_record(file, meta)
    store = open_store(root)
    if array_format not in (None, store.array_format):
        problem = f"store {root} is {store.array_format}, but format {array_format} was given"
        raise ValueError(f"{problem}; leave the format out, or give another store")
    if differences := store_file.describe_differences(store.numerics, wanted):
        problem = f"store {root} was made with other numerics: {'; '.join(differences)}"
        raise ValueError(f"{problem}; use the same options, or another store")
    return store


def _check_new_folder(root: Path) -> None:
    """Raise ValueError unless a store can be created at `root` (or another process just did)."""
    if layout.is_remains(root):
        raise ValueError(store_file.without_store_file(root))
    above = next(path for path in (root, *root.absolute().parents) if path.exists())
    if above != root and not above.is_dir():
        raise ValueError(f"{root} cannot be a store, because {above} is a file; give another path")
    foreign = root.exists()
    if root.is_dir():  # a store that another process is making has a lock and temporary files
        names = (entry.name for entry in root.iterdir())
        foreign = any(n != layout.LOCK_FILE and not n.endswith(TEMPORARY_SUFFIX) for n in names)
    if foreign and not (root / layout.STORE_FILE).exists():
        raise ValueError(f"{root} exists and is not a flowcpc store; give a new or empty folder")


class FlowStore:
    """Optical flow of many videos, with tables over them; made by `open_store`, `create_store`.

    Every flow has the `size` (height, width), px. If videos differ in size, it is None, and
    `short_side` is what they share, px; the columns of `videos` have the sizes. `encoding` turns
    codes into px. `has_frames` says whether the frames that flow was computed from are stored too.
    """

    def __init__(self, path: Path, array_format: str, numerics: Numerics) -> None:
        self.path = path
        self.array_format = array_format  # "zarr" or "hdf5"
        self.numerics = numerics  # what decides the stored values, as in store.json
        self.digest = digest_of(array_format, numerics)  # as in every commit
        self.short_side: int | None = numerics.get("short_side")
        self.size = None if self.short_side else (numerics["height"], numerics["width"])
        self.encoding = encoding_from_json(numerics["encoding"])
        self.has_frames = "frames" in numerics

    # With `columns`, only these columns are read; an unknown one raises KeyError.

    def videos(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Return a row per stored video: source, folds, flows, fps, statistics and provenance."""
        return catalog.read_table(self.path, "videos", columns)

    def shots(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Return a row per run of flows [start, stop) without a cut or a gap; see `segments`."""
        return catalog.read_table(self.path, "shots", columns)

    def segments(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Return a row per 10 flows [start, stop) of every shot, with fewer in the last one.

        Columns: seconds, mean u, v and |flow| in px, clip rate.
        """
        return catalog.read_table(self.path, "segments", columns)

    def frames(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Return a row per flow: as `segments`, its encoding error, whether it spans a cut."""
        return catalog.read_table(self.path, "frames", columns)

    def failures(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Return a row per video of the data set without flow, with kind and reason."""
        return catalog.read_table(self.path, "failures", columns)

    def tables(
        self, *names: str, columns: Mapping[str, list[str]] | None = None
    ) -> dict[str, pd.DataFrame]:
        """Return several tables of one moment by name; `columns` selects those of some tables."""
        return catalog.read_tables(self.path, names, columns)

    def remark_on_damage(self) -> str:
        """Return a sentence on videos whose records are damaged; empty if there are none."""
        damaged = int((self.failures(["kind"])["kind"] == catalog.KIND_DAMAGED).sum())
        if not damaged:
            return ""
        videos = f"the records of {counted(damaged, 'video')} are damaged"
        return f"{videos}, so only the table failures has them; flowcpc verify says how to repair"

    def is_indexed(self, *tables: str) -> bool:
        """Return whether the Parquet files of `tables` (all by default) fit the records."""
        with catalog.opened_index(self.path, tables or catalog.TABLES) as files:
            return files is not None

    def consolidate(self) -> dict[str, int]:
        """Rebuild the Parquet tables under `index/`; returns the rows of each."""
        return catalog.consolidate(self.path)

    # -- reading

    def read_flow(
        self, video_id: str, start: int = 0, stop: int | None = None
    ) -> NDArray[np.float32]:
        """Return flows [start, stop) of a video, float32 (stop - start, 2, H, W), px per frame.

        Components are (u, v) = (x, y). Raises UnknownVideoError, ValueError for a range outside the
        video, DamagedStoreError for damaged bytes.
        """
        return self.encoding.decode(self.read_codes(video_id, start, stop))

    def read_codes(self, video_id: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return flows [start, stop) in stored codes, of the encoding's dtype; see `read_flow`."""
        return _read_range(self.open_video(video_id), "flows", start, stop)

    def open_video(self, video_id: str) -> VideoReader:
        """Return a reader of one video's codes, for many reads. Raises UnknownVideoError."""
        commit = self._require_commit(video_id)
        video, per_chunk = commit["video"], self.numerics.get("flows_per_chunk")
        per_chunk = per_chunk or commit["chunks"]["flows_per_chunk"]
        chunks = ChunkMap.from_json(commit["chunks"])
        self._check_fit(video_id, chunks.holds(video["flows"], per_chunk), "chunks")
        shape = (video["flows"], 2, video["height"], video["width"])
        return VideoReader(video_id, self.path, shape, self.encoding.dtype, per_chunk, chunks)

    def read_frames(
        self, video_id: str, start: int = 0, stop: int | None = None
    ) -> NDArray[np.uint8]:
        """Return frames [start, stop) of a video, uint8 (stop - start, H, W, 3), RGB.

        There is one more than flows, at the size of the flow; flow t is from frame t to t + 1.
        Raises ValueError if the store holds no frames, else as `read_flow`.
        """
        return _read_range(self.open_frames(video_id), "frames", start, stop)

    def open_frames(self, video_id: str) -> FrameFileReader:
        """Return a reader of one video's frames, for many reads. Raises as `read_frames`."""
        self.require_frames()
        commit = self._require_commit(video_id)
        video = commit["video"]
        shape = (video["flows"] + 1, 3, video["height"], video["width"])
        chunks = ChunkMap.from_json(commit["jpegs"])
        self._check_fit(video_id, chunks.holds(shape[0], 1), "JPEGs")
        return FrameFileReader(video_id, self.path, shape, chunks)

    def require_frames(self) -> None:
        """Raise ValueError if the store holds no frames."""
        if not self.has_frames:
            problem = f"{self.path} holds flow without frames"
            raise ValueError(f"{problem}; extract into another store with --with-frames")

    def commit_of(self, video_id: str) -> CommitRecord | None:
        """Return the commit of a video, None if it is not stored. Raises DamagedStoreError."""
        try:
            return read_commit(self.path, layout.record_name(video_id), self.digest)
        except FileNotFoundError:
            return None

    def failure_of(self, video_id: str) -> FailureRecord | None:
        """Return the failure record of a video, or None if there is none or it is damaged."""
        try:
            path = layout.failure_path(self.path, video_id)
            return cast(FailureRecord, record_file.read_record(path))
        except (FileNotFoundError, DamagedStoreError):
            return None

    def _require_commit(self, video_id: str) -> CommitRecord:
        commit = self.commit_of(video_id)
        if commit is not None:
            return commit
        if (failure := self.failure_of(video_id)) is not None:
            raise UnknownVideoError(f"{video_id} has no flow in {self.path}: {failure['reason']}")
        nearest = nearest_name(video_id, self.videos(["video_id"])["video_id"])
        hint = f"; did you mean {nearest}?" if nearest else ""
        raise UnknownVideoError(f"{video_id} is not in {self.path}{hint}")

    def _check_fit(self, video_id: str, fits: bool, pieces: str) -> None:
        if not fits:
            problem = f"the record of {video_id} in {self.path} contradicts itself"
            reason = f"its {pieces} do not fit its number of flows"
            raise DamagedStoreError(f"{problem}: {reason}; extract the video again")

    # -- writing

    def write_video(self, video_id: str, size: tuple[int, int] | None = None) -> VideoWriter:
        """Return a writer of a new generation of a video. Nothing is visible before its `commit`.

        `size` is (height, width) of its flow, px; optional if all videos have the same. Raises
        ValueError for a size that does not fit the store.
        """
        size, rule = size or self.size, f"a shorter side of {self.short_side} px"
        fits = size is not None and min(size) == self.short_side
        if self.size is not None:
            fits, rule = size == self.size, f"flow of {self.size[0]}x{self.size[1]}"
        if size is None or not fits:
            given = "without a size" if size is None else f"of {size[0]}x{size[1]}"
            problem = f"the flow of {video_id} is {given}, but {self.path} takes {rule}"
            raise ValueError(f"{problem}; resize it")
        per_chunk = self.numerics.get("flows_per_chunk") or layout.flows_per_chunk(*size)
        return VideoWriter(
            self.path,
            video_id,
            array_format=self.array_format,
            digest=self.digest,
            encoding=self.encoding,
            with_frames=self.has_frames,
            chunk=(per_chunk, 2, *size),
        )

    def relabel(self, commit: CommitRecord, source: SourceRecord) -> None:
        """Replace label, group and folds in the commit of a stored video; its arrays stay."""
        catalog.invalidate(self.path)
        path = layout.commit_path(self.path, commit["video_id"])
        record_file.write_record(path, {**commit, **source})

    def record_failure(self, record: FailureRecord) -> None:
        """Record why a video has no flow."""
        catalog.invalidate(self.path)
        record_file.write_record(layout.failure_path(self.path, record["video_id"]), record)

    def set_dataset(self, videos: Sequence[SourceRecord], all_ids: Collection[str]) -> None:
        """Record that the store should hold `videos` too, of a data set of `all_ids`."""
        merge_dataset(self.path, videos, all_ids)

    def in_use(self) -> contextlib.AbstractContextManager[None]:
        """Lock the store as one of its writers, so that nobody deletes what this process writes."""
        return locked(self.path / layout.LOCK_FILE, shared=True)

    def left_alone(self) -> contextlib.AbstractContextManager[bool]:
        """Lock the store; the block gets True if no other process holds it.

        When several writers finish at the same time, only the last one gets True.
        """
        return shared_by_last(self.path / layout.LOCK_FILE)

    def collect_garbage(self) -> int:
        """Delete leftovers unless another process writes. Returns the number of files."""
        return garbage.collect(self.path)


def _read_range(
    video: VideoReader | FrameFileReader, items: str, start: int, stop: int | None
) -> NDArray[Any]:
    """Return the items [start, stop) of a video. Raises ValueError for a range outside it."""
    count = video.shape[0]
    stop = count if stop is None else stop
    if not 0 <= start <= stop <= count:
        span = f"{items} [{start}, {stop}) of {video.video_id}"
        raise ValueError(f"{span} must lie within [0, {count})")
    return video.read(start, stop)
