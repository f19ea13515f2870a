"""What an extraction has to do and has done, from the store's records."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.extraction import extract
from flowcpc.pipeline.extraction.extract import ExtractionSettings
from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.layout import record_name
from flowcpc.stores.records.contract import SourceStamp
from flowcpc.stores.records.record_file import record_names


@dataclasses.dataclass(frozen=True)
class VideoTask:
    """A video to extract and the size of its file in bytes, which weighs its progress."""

    video: Video
    source_bytes: int


@dataclasses.dataclass
class ExtractionPlan:
    """What remains to be done. Every video counts in one of `tasks`, `stored`, `skipped`."""

    tasks: list[VideoTask] = dataclasses.field(default_factory=list)  # the largest file first
    stored: int = 0  # videos with flow whose source has not changed
    skipped: list[str] = dataclasses.field(default_factory=list)  # ids; they would only fail again
    changed: list[str] = dataclasses.field(default_factory=list)  # ids; flow is of an earlier file

    def describe(self) -> str:
        """Return the plan in a few words."""
        text = f"{len(self.tasks)} to do, {self.stored} stored already"
        return f"{text}, {len(self.skipped)} missing or unusable" if self.skipped else text


@dataclasses.dataclass
class ExtractionSummary:
    """What an extraction did."""

    finished: bool = True  # every video was stored or failed
    gave_up: bool = False  # too many had failed
    videos: int = 0
    stored_before: int = 0  # videos with flow before this run
    stored: int = 0  # videos that this run added
    failed_now: int = 0  # videos that failed in this run
    pairs: int = 0  # of frames, in the added videos
    seconds: float = 0.0
    # (id, reason) of every video without flow, from this run or an earlier one, and of those that
    # keep the flow of an earlier file, because the present one fails.
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
    """Compare `videos` with the records of `store` and return what remains to be done.

    A stored video whose source changed (size or mtime) is extracted again; one whose label, group
    or folds changed gets a new record. Failures of the machine are tried again, failures of the
    file only if their source changed or with `retry_failed`. Absent videos are recorded as
    failures. Videos in `again` are extracted in any case.
    """
    stored, failed = (
        {row["video_id"]: row for row in table.to_dict("records")}
        for table in store.tables("videos", "failures").values()
    )
    plan = ExtractionPlan()
    for video in videos:
        stamp = extract.source_stamp(Path(settings.videos, video.path))
        size = stamp["source_bytes"]
        row = None if video.video_id in again else stored.get(video.video_id)
        failure: Any = failed.get(video.video_id)
        if row is not None and (size is None or _is_same_source(row, stamp)):
            plan.stored += 1  # a source that was deleted later does not invalidate its flow
            _update_record(store, video, row)
            continue
        if row is not None:
            plan.changed.append(video.video_id)
            failure = store.failure_of(video.video_id)
        kind = failure["kind"] if failure else ""
        may_skip = not retry_failed and video.video_id not in again
        if size is None:
            plan.skipped.append(video.video_id)
            if kind != extract.KIND_MISSING:
                reason = "the file does not exist"
                extract.record_failure(store, video, extract.KIND_MISSING, reason, stamp)
        elif kind == extract.KIND_FILE and may_skip and _is_same_source(failure, stamp):
            plan.skipped.append(video.video_id)
        else:
            plan.tasks.append(VideoTask(video, size))
    plan.tasks.sort(key=lambda task: (-task.source_bytes, task.video.video_id))
    return plan


def find_failed(store: FlowStore, videos: Sequence[Video]) -> list[tuple[str, str]]:
    """Return (video_id, reason) of those of `videos` that failed and have no flow."""
    failed = set(record_names(store.path, "failures")) - set(record_names(store.path, "commits"))
    ids = (video.video_id for video in videos if record_name(video.video_id) in failed)
    return find_reasons(store, sorted(ids))


def find_reasons(store: FlowStore, video_ids: Sequence[str]) -> list[tuple[str, str]]:
    """Return (video_id, reason) of those videos whose last attempt failed."""
    failures = [(video_id, store.failure_of(video_id)) for video_id in video_ids]
    return [(video_id, str(failure["reason"])) for video_id, failure in failures if failure]


def refuse_other_names(store: FlowStore, videos: Sequence[Video]) -> None:
    """Raise ValueError if a data set would store the same files again under other ids."""
    stored = store.videos(["video_id", "path"])
    ids = dict(zip(stored["path"], stored["video_id"], strict=True))
    for video in videos:
        if ids.get(video.path, video.video_id) != video.video_id:
            raise ValueError(
                f"{store.path} holds {video.path} as {ids[video.path]!r} and this data set calls "
                f"it {video.video_id!r}; use the --dataset and --annotations that the store was "
                "made with, or another store"
            )


def _is_same_source(row: Mapping[Any, Any], stamp: SourceStamp) -> bool:
    # An empty cell equals nothing, not even the None of an absent source.
    return all(not pd.isna(row[name]) and row[name] == value for name, value in stamp.items())


def _update_record(store: FlowStore, video: Video, row: Mapping[Any, Any]) -> None:
    """Write the label, group and folds of `video` into its record if they have changed."""
    values = {name: value for name, value in row.items() if isinstance(value, str)}
    folds = {name: value for name, value in values.items() if name.startswith("fold")}
    stored = {name: values.get(name) for name in ("video_id", "path", "label", "group")}
    record = video.to_record()
    if record != {**stored, "folds": folds} and (commit := store.commit_of(video.video_id)):
        store.relabel(commit, record)
