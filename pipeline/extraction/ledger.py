"""What an extraction has to do, by what the store's records say: nothing is computed twice and no video is forgotten."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flowcpc.pipeline.datasets.sources import Video
from flowcpc.pipeline.extraction.extract import (
    KIND_FILE,
    KIND_MISSING,
    ExtractionSettings,
    record_failure,
    source_stamp,
)
from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.layout import record_name
from flowcpc.stores.records.contract import SourceStamp
from flowcpc.stores.records.record_file import record_names


@dataclasses.dataclass(frozen=True)
class VideoTask:
    """A video to extract and the size of its file in bytes, by which progress is weighed."""

    video: Video
    source_bytes: int


@dataclasses.dataclass(frozen=True)
class ExtractionPlan:
    """Every video of a data set is in exactly one of these.

    Attributes
    ----------
    tasks : list of VideoTask
        To extract now, the largest file first so that no straggler is left for the end.
    stored : int
        Videos whose flow is there and whose source has not changed.
    standing : list of str
        Failures (absent, or the file is to blame) that would only fail again.
    changed : list of str
        Of all these, those whose flow is that of an earlier file.
    """

    tasks: list[VideoTask]
    stored: int
    standing: list[str]
    changed: list[str]


@dataclasses.dataclass
class ExtractionSummary:
    """What an extraction did. `finished` is false when it was stopped before the end; `gave_up` is true when that was because too many failed.

    `stored_before` videos had their flow already, `stored` were added and `failed_now` failed in this run; `failed` lists (video_id, reason)
    of all videos that have no flow, from this run or an earlier one. `outdated` lists those that keep the flow of an earlier file, because the
    file that is there now cannot be used.
    """

    finished: bool = True
    gave_up: bool = False
    videos: int = 0
    stored_before: int = 0
    stored: int = 0
    failed_now: int = 0
    pairs: int = 0
    seconds: float = 0.0
    failed: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    outdated: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def plan_extraction(
    store: FlowStore,
    settings: ExtractionSettings,
    videos: Sequence[Video],
    *,
    again: Collection[str] = (),
    retry_failed: bool = False,
) -> ExtractionPlan:
    """Compare `videos` with the records of `store` and return what is left to do.

    A stored video whose source changed (size or mtime) is extracted again; one whose label, group or folds changed gets
    a new record. Failures of the machine are tried again, failures of the file when their source changed or
    `retry_failed` is set. Absent videos are recorded. Those in `again` are extracted whatever is known of them.
    """
    tables = store.tables("videos", "failures")
    stored, failed = _by_id(tables["videos"]), _by_id(tables["failures"])
    tasks, standing, changed, kept = [], [], [], 0
    for video in videos:
        path = Path(settings.videos, video.path)
        stamp = source_stamp(path)
        row = None if video.video_id in again else stored.get(video.video_id)
        failure: Mapping[str, Any] | None = failed.get(video.video_id)
        if row is not None and (stamp["source_bytes"] is None or _same_source(row, stamp)):
            kept += 1  # a source that has gone since does not take its flow along
            _update_record(store, video, row)
            continue
        if row is not None:
            changed.append(video.video_id)
            failure = store.failure_of(video.video_id)
        if stamp["source_bytes"] is None:
            standing.append(video.video_id)
            if failure is None or failure["kind"] != KIND_MISSING:
                record_failure(store, video, KIND_MISSING, "the file does not exist", stamp)
        elif not retry_failed and video.video_id not in again and _would_fail_again(failure, stamp):
            standing.append(video.video_id)
        else:
            tasks.append(VideoTask(video, stamp["source_bytes"]))
    tasks.sort(key=lambda task: (-task.source_bytes, task.video.video_id))
    return ExtractionPlan(tasks, kept, standing, changed)


def find_outdated(store: FlowStore, plan: ExtractionPlan) -> list[tuple[str, str]]:
    """Return (video_id, reason) of the videos that keep the flow of an earlier file after `plan` was worked off: a commit takes the failure away."""
    failures = [(video_id, store.failure_of(video_id)) for video_id in plan.changed]
    return [(video_id, failure["reason"]) for video_id, failure in failures if failure is not None]


def find_failed(store: FlowStore, videos: Sequence[Video]) -> list[tuple[str, str]]:
    """Return (video_id, reason) of those of `videos` that have no flow because they failed; few records are read for it."""
    failed = set(record_names(store.path, "failures")).difference(
        record_names(store.path, "commits")
    )
    ids = sorted(video.video_id for video in videos if record_name(video.video_id) in failed)
    found = [(video_id, store.failure_of(video_id)) for video_id in ids]
    return [
        (video_id, str(failure["reason"])) for video_id, failure in found if failure is not None
    ]


def refuse_other_names(store: FlowStore, videos: Sequence[Video]) -> None:
    """Raise ValueError for a data set that would store the same files again under other ids, and so in other splits."""
    stored = store.videos(["video_id", "path"])
    names = dict(zip(stored["path"], stored["video_id"], strict=True))
    for video in videos:
        name = names.get(video.path, video.video_id)
        if name != video.video_id:
            raise ValueError(
                f"{store.path} holds {video.path} as {name!r} and this data set calls it {video.video_id!r}; "
                "use the --dataset and --annotations that the store was made with, or another store"
            )


def _by_id(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {
        row["video_id"]: {str(name): value for name, value in row.items()}
        for row in table.to_dict("records")
    }


def _same_source(row: Mapping[str, Any], stamp: SourceStamp) -> bool:
    # An empty cell equals nothing, not even an absent source's None.
    return all(not pd.isna(row[name]) and row[name] == value for name, value in stamp.items())


def _would_fail_again(failure: Mapping[str, Any] | None, stamp: SourceStamp) -> bool:
    return failure is not None and failure["kind"] == KIND_FILE and _same_source(failure, stamp)


def _update_record(store: FlowStore, video: Video, row: dict[str, Any]) -> None:
    folds = {
        name: value
        for name, value in row.items()
        if name.startswith("fold") and isinstance(value, str)
    }
    known = {
        name: row[name] if isinstance(row[name], str) else None
        for name in ("path", "label", "group")
    }
    wanted = video.to_record()
    if wanted == {"video_id": video.video_id, **known, "folds": folds}:
        return
    commit = store.commit_of(video.video_id)
    if commit is not None:
        store.relabel(commit, wanted)
