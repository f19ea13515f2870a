"""What an extraction has to do and has done, from the store's records."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flowcpc.pipeline.datasets.listing import Video
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
    """A video to extract and the size of its file in bytes, which weighs its progress."""

    video: Video
    source_bytes: int


@dataclasses.dataclass(frozen=True)
class ExtractionPlan:
    """What remains to be done. Every video counts in one of `tasks`, `stored`, `skipped`.

    Attributes
    ----------
    tasks : list of VideoTask
        To extract now, the largest file first, so that no long video is left for the end.
    stored : int
        Number of videos whose flow is stored and whose source has not changed.
    skipped : list of str
        Ids of videos that would only fail again: they are absent, or their file is to blame.
    changed : list of str
        Ids of videos whose stored flow was computed from an earlier file.
    """

    tasks: list[VideoTask]
    stored: int
    skipped: list[str]
    changed: list[str]

    def describe(self) -> str:
        """Return the plan in a few words."""
        text = f"{len(self.tasks)} to do, {self.stored} stored already"
        return f"{text}, {len(self.skipped)} failed for good or absent" if self.skipped else text


@dataclasses.dataclass
class ExtractionSummary:
    """What an extraction did.

    Attributes
    ----------
    finished, gave_up : bool
        Whether every video was stored or failed; if not, whether too many had failed.
    videos, stored_before, stored, failed_now : int
        All, those with flow before this run, those it added, those that failed in it.
    pairs : int
        Pairs of frames in the added ones.
    seconds : float
    failed : list of (str, str)
        Id and reason of every video without flow, from this run or an earlier one.
    outdated : list of (str, str)
        The same of videos that keep the flow of an earlier file, because the present one fails.
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
    """Compare `videos` with the records of `store` and return what remains to be done.

    A stored video whose source changed (size or mtime) is extracted again; one whose label, group
    or folds changed gets a new record. Failures of the machine are tried again, failures of the
    file only if their source changed or with `retry_failed`. Absent videos are recorded as
    failures. Videos in `again` are extracted in any case.
    """
    tables = store.tables("videos", "failures")
    stored, failed = _by_id(tables["videos"]), _by_id(tables["failures"])
    tasks: list[VideoTask] = []
    skipped: list[str] = []
    changed: list[str] = []
    unchanged = 0
    for video in videos:
        stamp = source_stamp(Path(settings.videos, video.path))
        size = stamp["source_bytes"]
        row = None if video.video_id in again else stored.get(video.video_id)
        failure: Mapping[str, Any] | None = failed.get(video.video_id)
        if row is not None and (size is None or _is_same_source(row, stamp)):
            unchanged += 1  # a source that was deleted later does not invalidate its flow
            _update_record(store, video, row)
            continue
        if row is not None:
            changed.append(video.video_id)
            failure = store.failure_of(video.video_id)
        if size is None:
            skipped.append(video.video_id)
            if failure is None or failure["kind"] != KIND_MISSING:
                record_failure(store, video, KIND_MISSING, "the file does not exist", stamp)
        elif not retry_failed and video.video_id not in again and _fails_again(failure, stamp):
            skipped.append(video.video_id)
        else:
            tasks.append(VideoTask(video, size))
    tasks.sort(key=lambda task: (-task.source_bytes, task.video.video_id))
    return ExtractionPlan(tasks, unchanged, skipped, changed)


def find_outdated(store: FlowStore, plan: ExtractionPlan) -> list[tuple[str, str]]:
    """Return (video_id, reason) of videos of `plan` that still have the flow of an earlier file."""
    return _failures(store, plan.changed)  # a commit removes the failure


def find_failed(store: FlowStore, videos: Sequence[Video]) -> list[tuple[str, str]]:
    """Return (video_id, reason) of those of `videos` that failed and have no flow."""
    failed = set(record_names(store.path, "failures")) - set(record_names(store.path, "commits"))
    ids = (video.video_id for video in videos if record_name(video.video_id) in failed)
    return _failures(store, sorted(ids))


def _failures(store: FlowStore, video_ids: Sequence[str]) -> list[tuple[str, str]]:
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


def _by_id(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    rows: list[dict[Any, Any]] = table.to_dict("records")
    return {row["video_id"]: row for row in rows}


def _is_same_source(row: Mapping[str, Any], stamp: SourceStamp) -> bool:
    # An empty cell equals nothing, not even the None of an absent source.
    return all(not pd.isna(row[name]) and row[name] == value for name, value in stamp.items())


def _fails_again(failure: Mapping[str, Any] | None, stamp: SourceStamp) -> bool:
    return failure is not None and failure["kind"] == KIND_FILE and _is_same_source(failure, stamp)


def _update_record(store: FlowStore, video: Video, row: dict[str, Any]) -> None:
    """Write the label, group and folds of `video` into its record if they have changed."""
    values = {name: value for name, value in row.items() if isinstance(value, str)}
    folds = {name: value for name, value in values.items() if name.startswith("fold")}
    stored = {name: values.get(name) for name in ("video_id", "path", "label", "group")}
    record = video.to_record()
    if record != {**stored, "folds": folds}:
        commit = store.commit_of(video.video_id)
        if commit is not None:
            store.relabel(commit, record)
