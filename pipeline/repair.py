"""Repair of a store: extract again what `verify` found damaged, with the store's own numerics."""

from pathlib import Path
from typing import NamedTuple

from flowcpc.pipeline.cluster.places import LocalProcesses
from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.extraction.extract import ExtractionSettings
from flowcpc.pipeline.extraction.ledger import ExtractionSummary
from flowcpc.pipeline.run import run_extraction
from flowcpc.stores import layout
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.base.listener import SILENT, Listener
from flowcpc.stores.flow_store import FlowStore, create_store
from flowcpc.stores.inspection.verify import Verification, import_command
from flowcpc.stores.records import record_file
from flowcpc.stores.records.dataset_file import read_dataset


class Repair(NamedTuple):
    """What was repaired."""

    summary: ExtractionSummary | None  # of the damaged videos; None: there was nothing to extract
    skipped: list[tuple[str, str]]  # (id, reason) of damaged videos that were not extracted


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
    if "tvl1" not in store.numerics:
        command = import_command(store) or "the program that made it"
        raise ValueError(
            f"the flow in {store.path} was not computed by flowcpc; repair it with: {command}"
        )
    settings = ExtractionSettings.like(
        store.numerics, videos, store.path, array_format=store.array_format
    )
    # Refuses other numerics before anything is changed.
    create_store(settings.store, settings.numerics(), settings.array_format)
    dataset = read_dataset(store.path)
    again: list[Video] = []
    skipped = []
    damaged = {found.video_id: found.path for found in verification.harmful if found.video_id}
    for video_id, path in sorted(damaged.items()):
        file = store.path / path
        if video_id not in dataset:
            reason = "is not in the store's list of videos; run extract-flow with the data set's"
            reason += " lists, or delete the file if it is no record"
            skipped.append((video_id, f"{file} {reason}"))
        elif not (source := videos / dataset[video_id]["path"]).is_file():
            skipped.append((video_id, f"{file} stays damaged: the source {source} does not exist"))
        else:
            again.append(Video(**dataset[video_id]))
            _remove_unreadable(store.path, video_id)
    if not again:
        store.consolidate()
        return Repair(None, skipped)
    ids = {video.video_id for video in again}
    place, everything = LocalProcesses(workers), dataset.keys()
    summary = run_extraction(
        settings, again, place, whole_dataset=everything, again=ids, listener=listener
    )
    return Repair(summary, skipped)


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
