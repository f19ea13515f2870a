"""dataset.json: the videos that a store should hold."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.layout import DATASET_FILE, record_name
from flowcpc.stores.records.contract import SourceRecord
from flowcpc.stores.records.record_file import read_record, record_names, write_record


def read_dataset(store: Path) -> dict[str, SourceRecord]:
    """Return the videos that the store should hold, by video_id. Raises DamagedStoreError."""
    return {video["video_id"]: video for video in _dataset_record(store).get("videos", ())}


def whole_dataset(store: Path) -> int:
    """Return how many videos the whole data set has, those never asked for too; 0 if unknown."""
    return int(_dataset_record(store).get("whole", 0))


def _dataset_record(store: Path) -> dict[str, Any]:
    try:
        return read_record(store / DATASET_FILE)
    except FileNotFoundError:
        return {}
    except DamagedStoreError as error:
        cure = "delete it and run extract-flow again with the lists of the data set"
        message = f"{store / DATASET_FILE} does not fit its checksum; {cure}"
        raise DamagedStoreError(message) from error


def merge_dataset(store: Path, videos: Sequence[SourceRecord], all_ids: Collection[str]) -> None:
    """Add `videos` to those that the store should hold; `all_ids` is the whole data set.

    Earlier videos outside `all_ids` were removed from the data set: they and their failures are
    forgotten. A video without commit or failure is a pending row in failures, so none is ever
    silently absent.
    """
    before, whole_before = read_dataset(store), whole_dataset(store)
    merged = {name: video for name, video in before.items() if name in all_ids}
    merged |= {video["video_id"]: video for video in videos}
    # Whoever names just the store's videos knows no more of the data set than the store.
    whole = max(len(all_ids), whole_before if set(all_ids) == before.keys() else 0)
    if merged != before or whole != whole_before or not (store / DATASET_FILE).exists():
        record = {"videos": [merged[name] for name in sorted(merged)], "whole": whole}
        write_record(store / DATASET_FILE, record)
    for name in {*record_names(store, "failures")} - {record_name(name) for name in all_ids}:
        (store / "failures" / name).unlink(missing_ok=True)  # another run may delete it first
