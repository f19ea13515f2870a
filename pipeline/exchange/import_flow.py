"""Flow folders in, a store out."""

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Collection, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flowcpc.pipeline.datasets.class_folders import draw_split
from flowcpc.pipeline.datasets.listing import SPLITS, Dataset, Video
from flowcpc.pipeline.datasets.sources import list_videos
from flowcpc.pipeline.datasets.ucf101 import ucf_group
from flowcpc.pipeline.exchange import layouts
from flowcpc.pipeline.exchange.layouts import FolderError, Layout, list_flows, read_flow
from flowcpc.pipeline.extraction.extract import KIND_FILE, KIND_MISSING, record_failure
from flowcpc.pipeline.extraction.ledger import ExtractionSummary, refuse_other_names
from flowcpc.pipeline.extraction.segmentation import find_segments, find_shots, frame_statistics
from flowcpc.stores.base.errors import DamagedStoreError, counted
from flowcpc.stores.base.listener import SILENT, Listener
from flowcpc.stores.encoding import DEFAULT, encoding_by_name
from flowcpc.stores.flow_store import FlowStore, create_store
from flowcpc.stores.inspection.verify import check_files
from flowcpc.stores.records.contract import CommitRecord, SourceStamp

_BLOCK = 32  # flows in memory
Flow = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class ImportSettings:
    """How flow below `folder` becomes a store. Raises ValueError for a value out of range."""

    folder: Path
    layout: Layout
    bound: float = 20.0  # the largest 8-bit value, px
    fps: float | None = None  # without it, the times of flows count flows instead of seconds
    short_side: int | None = None  # px; without it, all videos must have the size of the first
    encoding: str = DEFAULT.name
    array_format: str | None = None  # "zarr" (default of a new store) or "hdf5"

    def __post_init__(self) -> None:
        layouts.check_bound(self.bound)
        if self.fps is not None and not (np.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps={self.fps} must be above 0")


def find_videos(
    layout: Layout, root: Path, dataset: str = "folder", annotations: Path | None = None
) -> Dataset:
    """Return a video for every flow folder under `root`, which is [SPLIT/][CLASS/]VIDEO.

    Its name is the path, its label the folder above. Splits are folders called train, val and test,
    or drawn as for a folder of videos. With another `dataset` than "folder", names, labels, groups
    and folds come from its official lists; a listed video without a folder becomes a failure.
    Raises FileNotFoundError or ValueError if there is none, or a folder is in no list.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; give the folder above those with the JPEGs")
    names, others = layouts.find_folders(layout, root)
    if not names:
        raise ValueError(f"{root} has no folder of files named like {layout.example}; see --layout")
    remarks = []
    if others:
        left_out = f"left out {counted(len(others), 'folder')}, such as {root / others[0]}"
        remarks = [f"{left_out}, because no file is named like {layout.example}"]
    if dataset == "folder":
        found = _by_folders(root, names)
        return Dataset(found.videos, remarks + found.remarks)
    listed = {video.video_id: video for video in list_videos(dataset, annotations)}
    paths: dict[str, str] = {}
    for path in names:
        other = paths.setdefault(path.rpartition("/")[2], path)
        if other != path:
            raise ValueError(f"{other} and {path} have the flow of one listed video; remove one")
    for name in sorted(paths.keys() - listed.keys()):
        where = f"{paths[name]} is in no list of {annotations}"
        raise ValueError(f"{where}; import it with --dataset folder")
    located = (dataclasses.replace(listed[name], path=paths.get(name, name)) for name in listed)
    return Dataset(sorted(located, key=attrgetter("video_id")), remarks)


def _by_folders(root: Path, names: Sequence[str]) -> Dataset:
    paths = {name: name.split("/") for name in names}
    splits = {parts[0] for parts in paths.values() if len(parts) > 2} & set(SPLITS)
    videos, misplaced = [], []
    for name, parts in paths.items():
        label = parts[-2] if len(parts) > 1 else None
        folds = {"fold1": parts[0]} if splits else {}
        videos.append(Video(name, name, label, ucf_group(name), folds))
        if splits and (len(parts) < 3 or parts[0] not in splits):
            misplaced.append(root / name)
    if misplaced:
        rule = f"{misplaced[0]} must lie at SPLIT/CLASS/VIDEO like other videos"
        raise ValueError(f"{rule}; move it ({counted(len(misplaced), 'video')} to move)")
    if splits:
        return Dataset(videos, [f"splits are the folders {', '.join(sorted(splits))}"])
    drawn = draw_split(videos)
    return Dataset(sorted(drawn.videos, key=attrgetter("video_id")), drawn.remarks)


def import_flow(
    settings: ImportSettings, store: Path, videos: Sequence[Video], *, listener: Listener = SILENT
) -> ExtractionSummary:
    """Store the flow of `videos`; skip those that are stored intact and have not changed since.

    A folder that cannot be used is a row in failures, unless the store has earlier flow of it,
    which stays. The listener may stop the work between videos. Raises ValueError if no flow can be
    read at all, or for a store of other numerics.
    """
    began = time.perf_counter()
    folders = (settings.folder / video.path for video in videos)
    first = layouts.first_index(settings.layout, filter(Path.is_dir, folders))
    source = {"layout": settings.layout.name, "bound": settings.bound, "values": "8-bit JPEG"}
    numerics = {**_flow_size(settings, videos, first), "imported": source}
    numerics["encoding"] = encoding_by_name(settings.encoding).to_json()
    target = create_store(store, numerics, settings.array_format)
    target.collect_garbage()
    summary = ExtractionSummary(videos=len(videos))
    importer = _Importer(settings, target, first, summary)
    with target.in_use():
        refuse_other_names(target, videos)
        ids = {video.video_id for video in videos}
        if change := _other_times(target, ids, settings.fps):
            listener.announce(change)
        target.set_dataset([video.to_record() for video in videos], ids)
        for number, video in enumerate(videos):
            if listener.should_stop():
                summary.finished = False
                break
            listener.progress(number, len(videos), {"stored": f"{summary.stored}"})
            importer.import_video(video)
        listener.progress(len(videos), len(videos), {"stored": f"{summary.stored}"})
        target.consolidate()
    summary.seconds = time.perf_counter() - began
    return summary


def _flow_size(settings: ImportSettings, videos: Sequence[Video], first: int) -> dict[str, Any]:
    """Return the size of the store's flow: short_side, or height and width of the first flow."""
    short_side, reason = settings.short_side, ""
    for video in videos:
        try:
            files = list_flows(settings.layout, settings.folder / video.path, first)
            _, height, width = read_flow(settings.layout, files[0], settings.bound).shape
        except (FolderError, OSError) as error:
            reason = f"{video.video_id} {error}"
            continue
        if short_side is None:
            return {"height": height, "width": width}
        if short_side == min(height, width):
            return {"short_side": short_side}
        reason = f"{video.video_id} is {height}x{width}, but short_side={short_side}"
    raise ValueError(f"no flow under {settings.folder} can be used: {reason}")


def _other_times(store: FlowStore, ids: Collection[str], fps: float | None) -> str:
    """Return a message if flow of `ids` was imported with other times than those of `fps`."""
    stored = store.videos().reindex(columns=["video_id", "fps"])
    rates = stored.loc[stored["video_id"].isin(ids), "fps"]
    others = sorted({None if pd.isna(rate) else float(rate) for rate in rates} - {fps}, key=str)
    now, *earlier = ("no --fps" if x is None else f"--fps {x:g}" for x in (fps, *others))
    change = f"this import has {now}, earlier ones into {store.path} had {' and '.join(earlier)}"
    return f"{change}: times change, so it imports their videos again" if others else ""


@dataclasses.dataclass(frozen=True)
class _Importer:
    """Imports one video after the other; `first` is the number of the first flow in each folder."""

    settings: ImportSettings
    store: FlowStore
    first: int
    summary: ExtractionSummary

    def import_video(self, video: Video) -> None:
        folder, summary = self.settings.folder / video.path, self.summary
        commit = None  # unless it and all its files are intact
        with contextlib.suppress(DamagedStoreError):
            commit = self.store.commit_of(video.video_id)
        if commit is not None and check_files(self.store.path, commit)[1]:
            commit = None
        stamp: SourceStamp = {"source_bytes": None, "source_mtime_ns": None}
        try:
            files = list_flows(self.settings.layout, folder, self.first)
            states = [path.stat() for pair in files for path in pair]
            stamp["source_bytes"] = sum(state.st_size for state in states)
            stamp["source_mtime_ns"] = max(state.st_mtime_ns for state in states)
            source = {**stamp, "fps": self.settings.fps}
            if commit is not None and source.items() <= commit["video"].items():
                return self._keep(video, commit)
            self._write(video, files, stamp)
        except (FolderError, FileNotFoundError) as error:
            if commit is not None and not folder.is_dir():
                return self._keep(video, commit)  # its source was deleted since; the flow stays
            kind = KIND_FILE if folder.is_dir() else KIND_MISSING
            reason = str(error) if isinstance(error, FolderError) else "the folder does not exist"
            record_failure(self.store, video, kind, reason, stamp)
            failures = summary.failed if commit is None else summary.outdated
            failures.append((video.video_id, reason))
        else:
            summary.stored += 1
            summary.pairs += len(files)

    def _keep(self, video: Video, commit: CommitRecord) -> None:
        """Keep the flow of `video`, under the label, group and folds that it has now."""
        record = video.to_record()
        if not commit.items() >= record.items():
            self.store.relabel(commit, record)
        self.summary.stored_before += 1

    def _write(self, video: Video, files: list[tuple[Path, ...]], stamp: SourceStamp) -> None:
        bound, fps, encoding = self.settings.bound, self.settings.fps, self.store.encoding
        # A value at the end of the 8 bits was clipped; JPEG leaves it within half a step.
        reach = min(encoding.bound, bound - bound / 255)
        columns: dict[str, list[Any]] = {}
        digest, size = hashlib.sha256(), self._size_of(files[0])
        with self.store.write_video(video.video_id, size) as writer:
            for start in range(0, len(files), _BLOCK):
                flow = self._read_block(files[start : start + _BLOCK], size)
                digest.update(flow.tobytes())
                codes = encoding.encode(flow)
                for name, values in frame_statistics(flow, codes, encoding, reach).items():
                    columns.setdefault(name, []).extend(values)
                writer.append(codes)
            columns["time_s"] = [round(number / (fps or 1.0), 6) for number in range(len(files))]
            columns["cut"] = [False] * len(files)  # unknown without frames
            described = {
                **stamp,
                "source_sha256": digest.hexdigest(),
                "fps": fps,
                "decoded_frames": len(files) + 1,
                "header_frames": None,
                "decoded_is_header": True,
                "magnitude": round(float(np.mean(columns["magnitude"])), 6),
                "clip_rate": round(float(np.mean(columns["clip_rate"])), 9),
                "encoding_error": round(float(np.mean(columns["error"])), 6),
                "backend": f"imported from {self.settings.layout.name}",
                "committed": time.time(),
            }
            shots = find_shots(columns, columns["cut"])
            record, segments = video.to_record(), find_segments(columns, shots)
            writer.commit(record, described, frames=columns, shots=shots, segments=segments)

    def _size_of(self, files: tuple[Path, ...]) -> tuple[int, int]:
        """Return (height, width) of a flow. Raises FolderError unless the store accepts it."""
        _, height, width = read_flow(self.settings.layout, files, self.settings.bound).shape
        store, problem = self.store, f"{files[0].name} is {height}x{width}, but the store's flow"
        if store.short_side not in (None, min(height, width)):
            raise FolderError(f"{problem} has a shorter side of {store.short_side} px")
        if store.size and store.size != (height, width):
            shape = f"{store.size[0]}x{store.size[1]}"
            raise FolderError(f"{problem} is {shape}; videos of several sizes need --short-side")
        return height, width

    def _read_block(self, files: list[tuple[Path, ...]], size: tuple[int, int]) -> Flow:
        flows = []
        for pair in files:
            flows.append(read_flow(self.settings.layout, pair, self.settings.bound))
            if flows[-1].shape[1:] != size:  # before others are read: they may fill the memory
                found, other = ("{}x{}".format(*shape) for shape in (flows[-1].shape[1:], size))
                raise FolderError(f"{pair[0].name} is {found}, but the flow before it is {other}")
        return np.stack(flows)
