"""Tables over a store: videos, segments, frames and failures, built from the records of commits and failures.

The Parquet files under `index/` are a cache of what the records say. They carry a stamp of the record names they were
made from; where the stamp does not fit (an extraction was killed, or is running), the tables are made from the records
instead, so an answer is never stale.
"""

import hashlib
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from stores.atomic import replace_file
from stores.errors import DamagedStoreError
from stores.layout import DATASET_FILE, INDEX_STAMP

TABLES = ("videos", "segments", "frames", "failures")
_KEYS = {
    "videos": ["video_id"],
    "segments": ["video_id", "segment"],
    "frames": ["video_id", "frame"],
    "failures": ["video_id"],
}
KIND_PENDING = "pending"
_FAILURE_COLUMNS = [
    "video_id",
    "path",
    "label",
    "group",
    "kind",
    "reason",
    "attempts",
    "time",
    "source_bytes",
    "source_mtime_ns",
]
_NULLABLE_INTEGERS = ("source_bytes", "source_mtime_ns", "header_frames")  # nanoseconds do not survive a float
_VIDEO_COLUMNS = ["video_id", "path", "label", "group", "flows"]
_FRAME_COLUMNS = {
    "video_id": "str", "frame": "int32", "time_s": "float64",
    "mean_u": "float32", "mean_v": "float32", "magnitude": "float32", "clip_rate": "float32",
}  # fmt: skip
_SEGMENT_COLUMNS = {
    "video_id": "str", "segment": "int32", "start": "int32", "stop": "int32", "start_s": "float64", "stop_s": "float64",
    "mean_u": "float32", "mean_v": "float32", "magnitude": "float32", "clip_rate": "float32",
}  # fmt: skip


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write `record` as JSON with a checksum of itself, atomically."""
    body = json.dumps(record, ensure_ascii=False, sort_keys=True)
    checksum = hashlib.sha256(body.encode()).hexdigest()
    replace_file(
        path, json.dumps({"checksum": checksum, "record": record}, ensure_ascii=False, sort_keys=True).encode()
    )


def read_record(path: Path) -> dict[str, Any]:
    """Return the record at `path`. Raises FileNotFoundError, or DamagedStoreError when the bytes do not fit their
    checksum.
    """
    try:
        value = json.loads(path.read_bytes())
        record: dict[str, Any] = value["record"]
        intact = (
            hashlib.sha256(json.dumps(record, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
            == value["checksum"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedStoreError(
            f"{path} is not a whole record ({error}); delete it and run extract-flow again"
        ) from error
    if not intact:
        raise DamagedStoreError(f"{path} does not fit its checksum; delete it and run extract-flow again")
    return record


def record_paths(store: Path, kind: str) -> list[Path]:
    """Return the records of `kind` ("commits" or "failures"), sorted."""
    root = store / kind
    if not root.is_dir():
        return []
    return sorted(
        path for folder in root.iterdir() if folder.is_dir() for path in folder.iterdir() if path.suffix == ".json"
    )


def read_dataset(store: Path) -> dict[str, dict[str, Any]]:
    """Return the videos that the store is meant to hold, by video_id: path, label, group, folds."""
    try:
        return {video["video_id"]: video for video in read_record(store / DATASET_FILE)["videos"]}
    except FileNotFoundError:
        return {}


def merge_dataset(store: Path, videos: Sequence[Mapping[str, Any]], all_ids: Collection[str]) -> None:
    """Add `videos` (video_id, path, label, group, folds) to what the store is meant to hold.

    What it was meant to hold before stays if its id is in `all_ids`, the whole data set; other videos were taken out of
    the data set since, so they and their failures are forgotten. A video of the data set without commit or failure is
    pending: a row in failures, so that none is ever silently absent.
    """
    meant = {name: video for name, video in read_dataset(store).items() if name in all_ids}
    meant |= {video["video_id"]: dict(video) for video in videos}
    write_record(store / DATASET_FILE, {"videos": [meant[name] for name in sorted(meant)]})
    for path in record_paths(store, "failures"):
        if read_record(path)["video_id"] not in all_ids:
            path.unlink()


def read_table(store: Path, name: str) -> pd.DataFrame:
    """Return one of TABLES as it follows from the records that exist now."""
    try:
        stamp = json.loads((store / "index" / INDEX_STAMP).read_bytes())
        if stamp == _stamp(store):
            return pd.read_parquet(store / "index" / f"{name}.parquet")
    except (OSError, ValueError):
        pass  # no index, or one cut off while it was copied: the records answer
    return build_tables(store)[name]


def consolidate(store: Path) -> dict[str, pd.DataFrame]:
    """Write the tables under `index/` from all records, and return them."""
    stamp = _stamp(store)
    (store / "index" / INDEX_STAMP).unlink(missing_ok=True)
    tables = build_tables(store)
    for name, table in tables.items():
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        replace_file(store / "index" / f"{name}.parquet", buffer.getvalue())
    replace_file(store / "index" / INDEX_STAMP, json.dumps(stamp).encode())
    return tables


def build_tables(store: Path) -> dict[str, pd.DataFrame]:
    """Return all TABLES made from the records of commits and failures, each sorted by its key."""
    commits = list(_read_all(record_paths(store, "commits")))
    committed = {commit["video_id"] for commit in commits}
    # A crash between a commit and the removal of an older failure leaves both; the commit is the truth.
    failures = [record for record in _read_all(record_paths(store, "failures")) if record["video_id"] not in committed]
    known = committed | {record["video_id"] for record in failures}
    waiting = [video for video_id, video in read_dataset(store).items() if video_id not in known]
    failures += [{**video, "kind": KIND_PENDING, "reason": "is not extracted yet"} for video in waiting]
    tables = {
        "videos": pd.DataFrame([_video_row(commit) for commit in commits]).reindex(
            columns=_columns(commits, _VIDEO_COLUMNS)
        ),
        "segments": _long_table(commits, "segments", _SEGMENT_COLUMNS),
        "frames": _long_table(commits, "frames", _FRAME_COLUMNS),
        "failures": pd.DataFrame([_flat(record) for record in failures]).reindex(columns=_failure_columns(failures)),
    }
    for name in ("videos", "failures"):
        integers = {column: "Int64" for column in _NULLABLE_INTEGERS if column in tables[name]}
        tables[name] = tables[name].astype(integers)
    return {name: table.sort_values(_KEYS[name], ignore_index=True) for name, table in tables.items()}


def _read_all(paths: list[Path]) -> Iterator[dict[str, Any]]:
    with ThreadPoolExecutor(8) as pool:  # the wait is the disk's, or the network's under it
        yield from pool.map(read_record, paths)


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    return {**{key: value for key, value in record.items() if key != "folds"}, **record["folds"]}


def _video_row(commit: dict[str, Any]) -> dict[str, Any]:
    source = {key: commit[key] for key in ("video_id", "path", "label", "group", "folds")}
    return {**_flat(source), **commit["video"], "generation": commit["generation"]}


def _columns(commits: list[dict[str, Any]], first: list[str]) -> list[str]:
    """Return `first` and then every other column that any video has, the folds right behind the group."""
    seen: dict[str, None] = dict.fromkeys(first[:4])
    seen.update(dict.fromkeys(sorted({fold for commit in commits for fold in commit["folds"]})))
    seen.update(dict.fromkeys(first))
    for commit in commits:
        seen.update(dict.fromkeys(_video_row(commit)))
    return list(seen)


def _failure_columns(failures: list[dict[str, Any]]) -> list[str]:
    folds = sorted({fold for record in failures for fold in record["folds"]})
    return [*_FAILURE_COLUMNS[:4], *folds, *_FAILURE_COLUMNS[4:]]


def _long_table(commits: list[dict[str, Any]], name: str, columns: dict[str, str]) -> pd.DataFrame:
    data: dict[str, list[Any]] = {column: [] for column in columns}
    for commit in commits:
        rows: dict[str, list[Any]] = commit[name]
        count = len(rows["time_s" if name == "frames" else "start"])
        for column in columns:
            if column == "video_id":
                data[column].extend([commit["video_id"]] * count)
            elif column in ("frame", "segment"):
                data[column].extend(range(count))
            else:
                data[column].extend(rows[column])
    return pd.DataFrame(data).astype(columns)


def _stamp(store: Path) -> dict[str, Any]:
    """Name the data set and the set of records. Of these only names count, so that a copied store keeps its index whatever happened to the time
    stamps.
    """
    digest = hashlib.sha256()
    dataset = store / DATASET_FILE
    digest.update(dataset.read_bytes() if dataset.is_file() else b"")
    counts = {}
    for kind in ("commits", "failures"):
        paths = record_paths(store, kind)
        counts[kind] = len(paths)
        digest.update("\n".join([kind, *(str(path.relative_to(store)) for path in paths)]).encode())
    return {**counts, "names": digest.hexdigest()}
