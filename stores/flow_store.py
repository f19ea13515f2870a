"""FlowStore: create, open, commit one video atomically, read.

A commit record is the only switch. A video's arrays are written as a new generation under a name of their own, synced,
read back and compared, and only then named by `commits/<hh>/<key>.json`, itself put in place by one rename. Killed at
any moment, a store holds whole videos only.
"""

import contextlib
import difflib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stores import catalog, layout
from stores.atomic import TEMPORARY_SUFFIX, replace_file, sync_folder
from stores.encoding import Encoding
from stores.errors import DamagedStoreError
from stores.zarr_arrays import ArrayReader, ArrayWriter

Record = dict[str, Any]


def open_store(path: str | os.PathLike[str]) -> "FlowStore":
    """Return the store at `path`.

    Raises FileNotFoundError when there is none and ValueError when it is of another format or format version.
    """
    root = Path(path)
    file = root / layout.STORE_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{root} is not a flowcpc store (it has no {layout.STORE_FILE}); make one with: flowcpc extract-flow VIDEOS {root}"
        )
    try:
        meta = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); restore it from a copy of the store") from error
    if not isinstance(meta, dict) or meta.get("format") != layout.FORMAT:
        raise ValueError(f"{file} does not describe a flowcpc store; give the folder that extract-flow wrote")
    if meta.get("format_version") != layout.FORMAT_VERSION or meta.get("array_format") != layout.ARRAY_FORMAT:
        found = f"format version {meta.get('format_version')} ({meta.get('array_format')})"
        reads = f"{layout.FORMAT_VERSION} ({layout.ARRAY_FORMAT})"
        raise ValueError(
            f"{root} has {found}, this release reads {reads}; use the release that wrote it, or extract into a new store"
        )
    return FlowStore(root, meta["numerics"])


def create_store(path: str | os.PathLike[str], numerics: Mapping[str, Any]) -> "FlowStore":
    """Return a store at `path` that holds flow of `numerics`: a new one, or the one that is there if its numerics are
    the same.

    `numerics` is everything that decides a stored value: `height`, `width`, `encoding` (Encoding.to_json) and whatever produced the flow.
    Raises ValueError naming every difference with both values, or when `path` is a folder of something else.
    """
    root = Path(path)
    wanted: Record = json.loads(json.dumps(dict(numerics)))
    if not (root / layout.STORE_FILE).exists():
        if root.exists() and (not root.is_dir() or any(map(_is_foreign, root.iterdir()))):
            raise ValueError(f"{root} exists and is not a flowcpc store; give a new or empty folder")
        meta = {
            "format": layout.FORMAT,
            "format_version": layout.FORMAT_VERSION,
            "array_format": layout.ARRAY_FORMAT,
            "numerics": wanted,
        }
        replace_file(root / layout.STORE_FILE, json.dumps(meta, indent=2).encode())
    store = open_store(root)
    differences = [
        f"{name} is {stored!r} in the store and {here!r} here"
        for name, stored, here in layout.differing_values(store.numerics, wanted)
    ]
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
    height, width : int
        Size of every stored flow, px.
    encoding : Encoding
        Codes <-> px; `encoding.levels` is the table.
    """

    def __init__(self, path: Path, numerics: Record) -> None:
        self.path = path
        self.numerics = numerics
        self.height = int(numerics["height"])
        self.width = int(numerics["width"])
        self.encoding = Encoding.from_json(numerics["encoding"])

    # -- tables
    # ----------------------------------------------------------------------------------------------------------------------

    def videos(self) -> pd.DataFrame:
        """Return one row per stored video, sorted by video_id: label, group, folds, flows, fps, statistics, source and
        provenance.
        """
        return catalog.read_table(self.path, "videos")

    def segments(self) -> pd.DataFrame:
        """Return one row per 10 flows [start, stop) of every video: seconds, mean u, v and |flow| in px, clip rate."""
        return catalog.read_table(self.path, "segments")

    def frames(self) -> pd.DataFrame:
        """Return one row per flow: seconds, and the mean u, v and |flow| (px) of the decoded full frame."""
        return catalog.read_table(self.path, "frames")

    def failures(self) -> pd.DataFrame:
        """Return one row per video that belongs to the data set but has no flow, with kind and reason."""
        return catalog.read_table(self.path, "failures")

    def consolidate(self) -> dict[str, pd.DataFrame]:
        """Rebuild the Parquet tables under `index/` from the records, and return them by name."""
        return catalog.consolidate(self.path)

    # -- reading
    # ---------------------------------------------------------------------------------------------------------------------

    def read_flow(self, video_id: str, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Return flows [start, stop) of a video, float32 (stop - start, 2, H, W) in px per frame, components (u, v) =
        (x, y).

        Raises KeyError for an unknown video, ValueError for a range outside it, DamagedStoreError for damaged bytes.
        """
        return self.encoding.decode(self.read_codes(video_id, start, stop))

    def read_codes(self, video_id: str, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Return the stored integers of flows [start, stop), uint8 (stop - start, 2, H, W); raises as `read_flow`."""
        array = self.open_video(video_id)
        stop = array.shape[0] if stop is None else stop
        if not 0 <= start <= stop <= array.shape[0]:
            raise ValueError(
                f"flows [{start}, {stop}) of {video_id} were asked for, but it has {array.shape[0]}; ask within [0, {array.shape[0]})"
            )
        return array.read(start, stop)

    def open_video(self, video_id: str) -> ArrayReader:
        """Return a reader of one video's codes, for many reads. Raises KeyError for an unknown video."""
        commit = self.commit_of(video_id)
        if commit is None:
            raise KeyError(self._unknown(video_id))
        array = ArrayReader(self.path / layout.generation_path(video_id, commit["generation"]))
        expected = (commit["video"]["flows"], 2, self.height, self.width)
        if array.shape != expected:
            raise DamagedStoreError(
                f"the array of {video_id} has shape {array.shape}, its commit says {expected}; delete its commit and extract it again"
            )
        return array

    def commit_of(self, video_id: str) -> Record | None:
        """Return the commit record of a video, or None when it is not stored."""
        try:
            return catalog.read_record(layout.commit_path(self.path, video_id))
        except FileNotFoundError:
            return None

    def failure_of(self, video_id: str) -> Record | None:
        """Return the failure record of a video, or None."""
        try:
            return catalog.read_record(layout.failure_path(self.path, video_id))
        except FileNotFoundError:
            return None

    def _unknown(self, video_id: str) -> str:
        failure = self.failure_of(video_id)
        if failure is not None:
            return f"{video_id} has no flow in {self.path}: {failure['reason']}"
        near = difflib.get_close_matches(video_id, self.videos()["video_id"].tolist(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{video_id} is not in {self.path}{hint}"

    # -- writing
    # ---------------------------------------------------------------------------------------------------------------------

    def write_video(self, video_id: str) -> "VideoWriter":
        """Return a writer of a new generation of a video. Nothing is visible until its `commit`."""
        return VideoWriter(self, video_id)

    def relabel(self, commit: Record, source: Mapping[str, Any]) -> None:
        """Rewrite the commit record of a stored video with other values of label, group and folds; its arrays stay."""
        self.invalidate_index()
        catalog.write_record(layout.commit_path(self.path, commit["video_id"]), {**commit, **source})

    def record_failure(self, record: Mapping[str, Any]) -> None:
        """Write down why a video has no flow: video_id, path, label, group, folds, kind, reason, attempts, time and the
        source's stamp.
        """
        self.invalidate_index()
        catalog.write_record(layout.failure_path(self.path, record["video_id"]), dict(record))

    def set_dataset(self, videos: Sequence[Mapping[str, Any]], all_ids: Collection[str]) -> None:
        """Write down that the store is meant to hold `videos` too, of a data set of `all_ids`; catalog.merge_dataset."""
        self.invalidate_index()
        catalog.merge_dataset(self.path, videos, all_ids)

    def invalidate_index(self) -> None:
        """Make the tables follow the records, until the next `consolidate`; every change of a record does so first."""
        (self.path / "index" / layout.INDEX_STAMP).unlink(missing_ok=True)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold the store as one of its writers, so that no other process collects what this one is writing."""
        with open(self.path / layout.LOCK_FILE, "ab") as lock:
            with contextlib.suppress(OSError):  # a disk without locks: nobody can collect there either
                fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    def collect_garbage(self) -> int:
        """Delete generations that no commit names and temporary files, unless another process is writing. Returns how
        many went.
        """
        with open(self.path / layout.LOCK_FILE, "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return 0
            return self._collect()

    def _collect(self) -> int:
        named = set()
        for path in catalog.record_paths(self.path, "commits"):
            commit = catalog.read_record(path)
            named.add(self.path / layout.generation_path(commit["video_id"], commit["generation"]))
        garbage = [path for path in (self.path / "flow").glob("*/*") if path not in named]
        for kind in ("commits", "failures", "index"):
            garbage.extend((self.path / kind).rglob(f".*{TEMPORARY_SUFFIX}"))
        garbage.extend(self.path.glob(f".*{TEMPORARY_SUFFIX}"))
        for path in garbage:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        return len(garbage)


class VideoWriter:
    """Writes one generation of one video; a context manager that leaves nothing behind unless `commit` was called."""

    def __init__(self, store: FlowStore, video_id: str) -> None:
        self._store = store
        self._video_id = video_id
        self._generation = uuid.uuid4().hex[:12]
        self.path = store.path / layout.generation_path(video_id, self._generation)
        self._digest = hashlib.sha256()
        self._committed = False

    def __enter__(self) -> "VideoWriter":
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(self._store.in_use())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        attributes = {**self._store.encoding.attributes(), "video_id": self._video_id}
        self._array = ArrayWriter(self.path, self._store.height, self._store.width, attributes)
        return self

    def append(self, codes: NDArray[np.uint8]) -> None:
        """Add flows, uint8 (n, 2, H, W), n >= 0."""
        self._digest.update(np.ascontiguousarray(codes).tobytes())
        self._array.append(codes)

    def commit(
        self,
        source: Mapping[str, Any],
        video: Mapping[str, Any],
        frames: Mapping[str, Any],
        segments: Mapping[str, Any],
    ) -> Record:
        """Sync and check what was appended, then make it the video's flow. Returns the commit record.

        `source` has video_id, path, label, group, folds; `video` the columns of the videos table; `frames` and `segments` lists of equal length.
        Raises DamagedStoreError when the disk gives back other bytes than were written.
        """
        flows = self._array.close()
        self._check(flows)
        files = {
            str(path.relative_to(self.path)): _file_record(path)
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
        }
        video = {**video, "flows": flows, "bytes": sum(entry["bytes"] for entry in files.values())}
        record = {
            **source,
            "generation": self._generation,
            "files": files,
            "video": video,
            "frames": dict(frames),
            "segments": dict(segments),
        }
        sync_folder(self.path.parent)
        self._store.invalidate_index()
        catalog.write_record(layout.commit_path(self._store.path, self._video_id), record)
        self._committed = True
        layout.failure_path(self._store.path, self._video_id).unlink(missing_ok=True)
        return record

    def __exit__(self, *_: object) -> None:
        if not self._committed:
            shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()

    def _check(self, flows: int) -> None:
        array = ArrayReader(self.path)
        digest = hashlib.sha256()
        for start in range(0, flows, layout.FLOWS_PER_SHARD):
            digest.update(array.read(start, min(start + layout.FLOWS_PER_SHARD, flows)).tobytes())
        if digest.digest() != self._digest.digest():
            raise DamagedStoreError(f"{self.path} reads back other bytes than were written; check the disk")


def _is_foreign(entry: Path) -> bool:
    """Whether a folder with this entry was something else before: a lock or a torn temporary file are a store's own."""
    return entry.name != layout.LOCK_FILE and entry.suffix != TEMPORARY_SUFFIX


def _file_record(path: Path) -> Record:
    with open(path, "rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
