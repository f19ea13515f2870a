"""Flow folders in, a store out."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flowcpc.pipeline.datasets.class_folders import draw_split
from flowcpc.pipeline.datasets.listing import SPLITS
from flowcpc.pipeline.datasets.sources import Dataset, Video, list_videos
from flowcpc.pipeline.datasets.ucf101 import ucf_group
from flowcpc.pipeline.exchange.layouts import (
    FolderError,
    Layout,
    check_bound,
    find_folders,
    first_index,
    import_numerics,
    list_flows,
    read_flow,
)
from flowcpc.pipeline.extraction.extract import KIND_FILE, KIND_MISSING, record_failure
from flowcpc.pipeline.extraction.ledger import ExtractionSummary, refuse_other_names
from flowcpc.pipeline.extraction.segmentation import find_segments, find_shots, frame_statistics
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.base.listener import Progress
from flowcpc.stores.base.plurals import counted
from flowcpc.stores.encoding import encoding_by_name
from flowcpc.stores.flow_store import FlowStore, create_store
from flowcpc.stores.inspection.verify import check_files
from flowcpc.stores.records.contract import CommitRecord, SourceStamp

_BLOCK = 32  # flows in memory


def find_videos(
    layout: Layout, root: Path, dataset: str = "folder", annotations: Path | None = None
) -> Dataset:
    """Return a video for every flow folder under `root`, [SPLIT/][CLASS/]VIDEO: its name is the path, its label the folder above.

    Splits are folders called train, val and test, or drawn as for a folder of videos. With another `dataset` than "folder" names, labels, groups
    and folds are those of its official lists. Raises FileNotFoundError or ValueError when there is none.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} is no folder; give the one that holds a folder of JPEGs per video"
        )
    names, others = find_folders(layout, root)
    if not names:
        raise ValueError(
            f"{root} holds no folder of files named like {layout.file_name(layout.kinds[0], 0)}; see --layout"
        )
    remarks = []
    if others:
        which = f"{counted(len(others), 'folder')} under {root}"
        remarks = [
            f"{which} without files named like {layout.file_name(layout.kinds[0], 0)} left out, as {root / others[0]}"
        ]
    if dataset != "folder":
        plain = [Video(name, name, None, None, {}) for name in names]
        return Dataset(_with_lists(plain, dataset, annotations), remarks)
    found = _by_folders(root, names)
    return Dataset(found.videos, remarks + found.remarks)


def _by_folders(root: Path, names: Sequence[str]) -> Dataset:
    paths = [(name, name.split("/")) for name in names]
    splits = {parts[0] for _, parts in paths if len(parts) > 2} & set(SPLITS)
    misplaced = [
        name for name, parts in paths if splits and (len(parts) < 3 or parts[0] not in splits)
    ]
    if misplaced:
        raise ValueError(
            f"{counted(len(misplaced), 'video')} not placed as SPLIT/CLASS/VIDEO as others are, first {root / misplaced[0]}; move what is misplaced"
        )
    videos = [
        Video(
            name,
            name,
            parts[-2] if len(parts) > 1 else None,
            ucf_group(name),
            {"fold1": parts[0]} if splits else {},
        )
        for name, parts in paths
    ]
    if splits:
        return Dataset(videos, [f"splits are the folders {', '.join(sorted(splits))}"])
    drawn = draw_split(videos)
    return Dataset(sorted(drawn.videos, key=lambda video: video.video_id), drawn.remarks)


def _with_lists(videos: Sequence[Video], dataset: str, annotations: Path | None) -> list[Video]:
    """Return `videos` under the names of UCF-101's, HMDB-51's or Kinetics' official lists, with their label, group and folds.

    A listed video without a folder is in it too, and becomes a failure. Raises ValueError for a folder that no list names.
    """
    listed = {video.video_id: video for video in list_videos(dataset, annotations)}
    found: dict[str, str] = {}
    for video in videos:
        twin = found.setdefault(video.path.rpartition("/")[2], video.path)
        if twin != video.path:
            raise ValueError(
                f"{twin} and {video.path} are both the flow of one listed video; remove one of them"
            )
    strangers = sorted(found.keys() - listed.keys())
    if strangers:
        raise ValueError(
            f"{found[strangers[0]]} is in no list of {annotations}; import it with --dataset folder"
        )
    return [
        dataclasses.replace(video, path=found.get(name, name))
        for name, video in sorted(listed.items())
    ]


def import_flow(
    root: Path,
    store: Path,
    layout: Layout,
    videos: Sequence[Video],
    *,
    bound: float,
    fps: float | None,
    encoding: str,
    array_format: str | None,
    short_side: int | None = None,
    progress: Progress = lambda done, total, fields: None,
    announce: Callable[[str], None] = lambda message: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> ExtractionSummary:
    """Bring the flow of `videos`, whose paths are folders relative to `root`, into `store`; what is there, whole and unchanged is left alone.

    A folder that cannot be used is a row in failures, unless the store has flow of it from before, which stays.
    Without `fps` the times of flows count flows instead of seconds. With `short_side` videos may
    have sizes of their own whose shorter side is so many px; without it all have the size of the first.
    Raises ValueError for a bound that cannot be, no readable flow at all, or a store of other numerics.
    """
    check_bound(bound)
    if fps is not None and not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps={fps} must be above 0")
    began = time.perf_counter()
    first = first_index(
        layout, (root / video.path for video in videos if (root / video.path).is_dir())
    )
    height, width = _first_size(root, layout, videos, bound, first, short_side)
    size = {"height": height, "width": width} if short_side is None else {"short_side": short_side}
    target = create_store(
        store,
        import_numerics(layout, bound, size, encoding_by_name(encoding).to_json()),
        array_format,
    )
    target.collect_garbage()
    summary = ExtractionSummary(videos=len(videos))
    with target.in_use():
        refuse_other_names(target, videos)
        _announce_other_times(target, videos, fps, announce)
        target.set_dataset(
            [video.to_record() for video in videos], {video.video_id for video in videos}
        )
        for number, video in enumerate(videos):
            if should_stop():
                summary.finished = False
                break
            progress(number, len(videos), {"stored": f"{summary.stored}"})
            _import_one(root, target, layout, video, bound, fps, first, summary)
        progress(len(videos), len(videos), {"stored": f"{summary.stored}"})
        target.consolidate()
    summary.seconds = time.perf_counter() - began
    return summary


def _first_size(
    root: Path,
    layout: Layout,
    videos: Sequence[Video],
    bound: float,
    first: int,
    short_side: int | None,
) -> tuple[int, int]:
    """Return (height, width) of the first flow that can be read and has the shorter side that is asked for."""
    why = ""
    for video in videos:
        try:
            flow = read_flow(layout, list_flows(layout, root / video.path, first)[0], bound)
        except (FolderError, OSError) as error:
            why = f"{video.video_id} {error}"
            continue
        height, width = int(flow.shape[1]), int(flow.shape[2])
        if short_side in (None, min(height, width)):
            return height, width
        why = f"{video.video_id} is {height}x{width}, and a shorter side of {short_side} px is asked for"
    raise ValueError(f"no flow under {root} can be used: {why}")


def _import_one(
    root: Path,
    store: FlowStore,
    layout: Layout,
    video: Video,
    bound: float,
    fps: float | None,
    first: int,
    summary: ExtractionSummary,
) -> None:
    folder = root / video.path
    commit = _whole_commit(store, video.video_id)
    stamp: SourceStamp = {"source_bytes": None, "source_mtime_ns": None}
    try:
        files = list_flows(layout, folder, first)
        states = [path.stat() for pair in files for path in pair]
        stamp = {
            "source_bytes": sum(state.st_size for state in states),
            "source_mtime_ns": max(state.st_mtime_ns for state in states),
        }
        if commit is not None and all(
            commit["video"].get(name) == value for name, value in {**stamp, "fps": fps}.items()
        ):
            return _keep(store, video, commit, summary)
        _write(store, layout, video, files, bound, fps, stamp)
    except (FolderError, FileNotFoundError) as error:
        if (
            commit is not None and not folder.is_dir()
        ):  # a folder that has gone since does not take its flow along
            return _keep(store, video, commit, summary)
        kind = KIND_FILE if folder.is_dir() else KIND_MISSING
        reason = str(error) if isinstance(error, FolderError) else "the folder does not exist"
        record_failure(store, video, kind, reason, stamp)
        (summary.failed if commit is None else summary.outdated).append((video.video_id, reason))
        return
    summary.stored += 1
    summary.pairs += len(files)


def _whole_commit(store: FlowStore, video_id: str) -> CommitRecord | None:
    """Return the commit of a video if it and all its files are whole."""
    try:
        commit = store.commit_of(video_id)
    except DamagedStoreError:
        return None
    return commit if commit is not None and not check_files(store.path, commit)[1] else None


def _keep(store: FlowStore, video: Video, commit: CommitRecord, summary: ExtractionSummary) -> None:
    """Leave the flow of `video` as it is, under its label, group and folds of now."""
    record = video.to_record()
    if not commit.items() >= record.items():
        store.relabel(commit, record)
    summary.stored_before += 1


def _announce_other_times(
    store: FlowStore, videos: Sequence[Video], fps: float | None, announce: Callable[[str], None]
) -> None:
    stored = store.videos().reindex(columns=["video_id", "fps"])
    known = stored.loc[stored["video_id"].isin([video.video_id for video in videos]), "fps"]
    other = sorted({None if pd.isna(value) else float(value) for value in known} - {fps}, key=str)
    if other:
        named = " and ".join("no --fps" if value is None else f"--fps {value:g}" for value in other)
        now = "no --fps" if fps is None else f"--fps {fps:g}"
        announce(
            f"videos of {store.path} were imported with {named}: with {now} their times change, and they are imported again"
        )


def _write(
    store: FlowStore,
    layout: Layout,
    video: Video,
    files: list[tuple[Path, ...]],
    bound: float,
    fps: float | None,
    stamp: SourceStamp,
) -> None:
    # A value at the end of the 8 bits was clipped before it came here; JPEG leaves it within half a step.
    reach = min(store.encoding.bound, bound - bound / 255)
    columns: dict[str, list[Any]] = {}
    digest = hashlib.sha256()
    size = _size_of(store, layout, files[0], bound)
    with store.write_video(video.video_id, size) as writer:
        for start in range(0, len(files), _BLOCK):
            flow = _read_block(layout, files[start : start + _BLOCK], bound, size)
            digest.update(flow.tobytes())
            codes = store.encoding.encode(flow)
            for name, values in frame_statistics(flow, codes, store.encoding, reach).items():
                columns.setdefault(name, []).extend(values)
            writer.append(codes)
        columns["time_s"] = [round(number / (fps or 1.0), 6) for number in range(len(files))]
        columns["cut"] = [False] * len(files)  # there are no frames to tell
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
            "backend": f"imported from {layout.name}",
            "committed": time.time(),
        }
        shots = find_shots(columns, columns["cut"])
        segments = find_segments(columns, shots)
        writer.commit(video.to_record(), described, frames=columns, shots=shots, segments=segments)


def _size_of(
    store: FlowStore, layout: Layout, files: tuple[Path, ...], bound: float
) -> tuple[int, int]:
    """Return (height, width) of a flow. Raises FolderError where the store does not take it."""
    _, height, width = read_flow(layout, files, bound).shape
    found = f"{files[0].name} is {height}x{width}"
    if store.short_side is not None and min(height, width) != store.short_side:
        raise FolderError(
            f"{found} and the store's flow has a shorter side of {store.short_side} px"
        )
    if store.short_side is None and (height, width) != (store.height, store.width):
        raise FolderError(
            f"{found} and the store's flow {store.height}x{store.width}; videos of several sizes need --short-side"
        )
    return height, width


def _read_block(
    layout: Layout, files: list[tuple[Path, ...]], bound: float, size: tuple[int, int]
) -> NDArray[np.float32]:
    flows = []
    for pair in files:
        flow = read_flow(layout, pair, bound)
        if flow.shape[1:] != size:
            raise FolderError(
                f"{pair[0].name} is {flow.shape[1]}x{flow.shape[2]} and the flow before it {size[0]}x{size[1]}"
            )
        flows.append(flow)
    return np.stack(flows)
