"""Repair of a store: extract again what `verify` found damaged, with the store's own numerics."""

import dataclasses
from pathlib import Path

from flowcpc.pipeline.cluster.places import LocalProcesses
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.extraction.extract import ExtractionSettings
from flowcpc.pipeline.extraction.ledger import ExtractionSummary
from flowcpc.pipeline.run import run_extraction
from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
from flowcpc.stores import layout
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.base.listener import SILENT, Listener
from flowcpc.stores.flow_store import FlowStore, create_store
from flowcpc.stores.inspection.verify import Verification, import_command
from flowcpc.stores.records import record_file
from flowcpc.stores.records.dataset_file import read_dataset


@dataclasses.dataclass(frozen=True)
class Repair:
    """What was repaired.

    Attributes
    ----------
    summary : ExtractionSummary, optional
        Of the damaged videos; None if there was nothing to extract.
    skipped : list of (str, str)
        Ids of damaged videos that were not extracted, and why.
    """

    summary: ExtractionSummary | None
    skipped: list[tuple[str, str]]


def repair(
    store: FlowStore,
    videos: Path,
    verification: Verification,
    *,
    workers: int,
    listener: Listener = SILENT,
) -> Repair:
    """Extract the damaged videos of `store` again from the folder `videos`; rebuild the tables.

    A video whose source does not exist is skipped; files that belong to no video are not touched.
    Raises ValueError when the store's flow was not computed by this release's solver,
    DamagedStoreError when the list of videos is damaged.
    """
    settings = _settings(store, videos)
    # Refuses other numerics before anything is changed.
    create_store(settings.store, settings.numerics(), settings.array_format)
    dataset = read_dataset(store.path)
    again: list[Video] = []
    skipped = []
    damaged = {finding.video_id: finding.path for finding in verification.harmful}
    for video_id in sorted(video_id for video_id in damaged if video_id is not None):
        file = store.path / damaged[video_id]
        if video_id not in dataset:
            reason = "is not in the store's list of videos; run extract-flow with the data set's"
            reason += " lists, or delete the file if it is no record"
            skipped.append((video_id, f"{file} {reason}"))
        elif not (source := videos / dataset[video_id]["path"]).is_file():
            skipped.append((video_id, f"{file} stays damaged: the source {source} does not exist"))
        else:
            again.append(Video(**dataset[video_id]))
    if not again:
        store.consolidate()
        return Repair(None, skipped)
    for video in again:
        _remove_unreadable(store.path, video.video_id)
    summary = run_extraction(
        settings,
        again,
        LocalProcesses(workers),
        whole_dataset=dataset.keys(),
        again={video.video_id for video in again},
        listener=listener,
    )
    return Repair(summary, skipped)


def _settings(store: FlowStore, videos: Path) -> ExtractionSettings:
    numerics = store.numerics
    if "tvl1" not in numerics:
        command = import_command(store) or "the program that made it"
        raise ValueError(
            f"the flow in {store.path} was not computed by flowcpc; repair it with: {command}"
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
    """Delete the records of a video that cannot be read."""
    for path in (layout.commit_path(store, video_id), layout.failure_path(store, video_id)):
        try:
            is_good = record_file.read_record(path)["video_id"] == video_id
        except FileNotFoundError:
            continue
        except DamagedStoreError:
            is_good = False
        if not is_good:
            path.unlink()
