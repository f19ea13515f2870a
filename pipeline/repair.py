"""Recompute what `verify` found damaged, from the source videos and with the store's own numerics."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from flowcpc.pipeline.cluster.places import LocalProcesses
from flowcpc.pipeline.datasets.sources import Video
from flowcpc.pipeline.extraction.extract import ExtractionSettings
from flowcpc.pipeline.extraction.ledger import ExtractionSummary
from flowcpc.pipeline.run import run_extraction
from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
from flowcpc.stores import layout
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.base.listener import Progress
from flowcpc.stores.flow_store import FlowStore, create_store
from flowcpc.stores.inspection.verify import Verification, import_command
from flowcpc.stores.records import record_file
from flowcpc.stores.records.dataset_file import read_dataset


@dataclasses.dataclass(frozen=True)
class Repair:
    """What became of the damaged videos: `summary` of their extraction, None where there was nothing to extract, and those `left` as they
    are, with the reason.
    """

    summary: ExtractionSummary | None
    left: list[tuple[str, str]]


def repair(
    store: FlowStore,
    videos: Path,
    found: Verification,
    *,
    workers: int,
    progress: Progress = lambda done, total, fields: None,
    announce: Callable[[str], None] = lambda message: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Repair:
    """Extract the damaged videos of `store` again from the folder `videos`, and rebuild the tables.

    A video whose source is not there is left as it is, and so is what is no video's.
    Raises ValueError when the store's flow was not computed by this release's solver,
    DamagedStoreError when the list of videos is damaged.
    """
    settings = _settings(store, videos)
    create_store(
        settings.store, settings.numerics(), settings.array_format
    )  # refuses other numerics before anything is touched
    meant = read_dataset(store.path)
    wanted = {
        finding.video_id: store.path / finding.path
        for finding in found.harmful
        if finding.video_id is not None
    }
    again: list[Video] = []
    left = []
    for video_id, file in sorted(wanted.items()):
        if video_id not in meant:
            what = "is not in the store's list of videos; run extract-flow with the data set's lists, or delete the file if it is no record"
            left.append((video_id, f"{file} {what}"))
        elif not (videos / meant[video_id]["path"]).is_file():
            left.append(
                (
                    video_id,
                    f"{file} stays: the source {videos / meant[video_id]['path']} does not exist",
                )
            )
        else:
            again.append(Video(**meant[video_id]))
    for video in again:
        _remove_unreadable(store.path, video.video_id)
    summary = None
    if again:
        ids = {video.video_id for video in again}
        summary = run_extraction(
            settings,
            again,
            LocalProcesses(workers),
            whole_dataset=meant.keys(),
            again=ids,
            progress=progress,
            announce=announce,
            should_stop=should_stop,
        )
    else:
        store.consolidate()
    return Repair(summary, left)


def _settings(store: FlowStore, videos: Path) -> ExtractionSettings:
    numerics = store.numerics
    if "tvl1" not in numerics:
        command = import_command(store) or "the program that made it"
        raise ValueError(
            f"the flow in {store.path} was not computed by flowcpc; mend it with: {command}"
        )
    return ExtractionSettings(
        str(videos),
        str(store.path),
        **{name: numerics[name] for name in ("height", "width", "short_side") if name in numerics},
        parameters=TVL1Parameters(**numerics["tvl1"]),
        encoding=store.encoding.name,
        array_format=store.array_format,
        with_frames=store.has_frames,
    )


def _remove_unreadable(store: Path, video_id: str) -> None:
    """Delete the records of a video that say nothing any more; its source is there, so it is extracted anew."""
    for path in (layout.commit_path(store, video_id), layout.failure_path(store, video_id)):
        try:
            good = record_file.read_record(path)["video_id"] == video_id
        except FileNotFoundError:
            continue
        except DamagedStoreError:
            good = False
        if not good:
            path.unlink()
