"""Tables over a store: videos, shots, segments, frames and failures, built from the records of commits and failures.

The Parquet files under `index/` are a cache of what the records say. They carry a stamp of the record names they were
made from; where the stamp does not fit (an extraction was killed, or is running), the tables are made from the records
instead, so an answer is never stale.
"""

import contextlib
import hashlib
import io
import itertools
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stores.atomic import replace_file
from stores.errors import DamagedStoreError
from stores.layout import DATASET_FILE, INDEX_STAMP

# A record is JSON, but checked as the bytes that were written: not every change of JSON changes its values.
_BEGIN, _MIDDLE, _END = b'{"checksum": "', b'", "record": ', b"}"
_DIGITS = 64

TABLES = ("videos", "shots", "segments", "frames", "failures")
_KEYS = {
    "videos": ["video_id"],
    "shots": ["video_id", "shot"],
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
_MEANS = {"mean_u": "float32", "mean_v": "float32", "magnitude": "float32", "clip_rate": "float32"}
_SPAN = {"start": "int32", "stop": "int32", "start_s": "float64", "stop_s": "float64"}
# Tables with several rows per video: the column that counts them, and the others.
_LONG_TABLES = {
    "shots": ("shot", {**_SPAN, **_MEANS}),
    "segments": ("segment", {"shot": "int32", **_SPAN, **_MEANS}),
    "frames": ("frame", {"time_s": "float64", **_MEANS, "error": "float32", "cut": "bool"}),
}


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write `record` as JSON with a checksum of itself, atomically."""
    body = json.dumps(record, ensure_ascii=False, sort_keys=True).encode()
    replace_file(path, _BEGIN + hashlib.sha256(body).hexdigest().encode() + _MIDDLE + body + _END)


def read_record(path: Path) -> dict[str, Any]:
    """Return the record at `path`. Raises FileNotFoundError, or DamagedStoreError when a byte of it is not what was written."""
    data = path.read_bytes()
    start = len(_BEGIN) + _DIGITS + len(_MIDDLE)
    body = data[start : -len(_END)]
    intact = _BEGIN + hashlib.sha256(body).hexdigest().encode() + _MIDDLE + body + _END == data
    if not intact:
        raise DamagedStoreError(f"{path} does not fit its checksum; mend it with flowcpc verify and its --repair")
    record: dict[str, Any] = json.loads(body)
    return record


def record_paths(store: Path, kind: str) -> list[Path]:
    """Return the records of `kind` ("commits" or "failures"), sorted."""
    return [store / name for name in _record_names(store, kind)]


def _record_names(store: Path, kind: str) -> list[str]:
    """Paths relative to the store, sorted; as strings, because a hundred thousand Path objects take seconds."""
    try:
        folders = sorted(os.listdir(store / kind))
    except FileNotFoundError:
        return []
    names = []
    for folder in folders:
        with contextlib.suppress(NotADirectoryError):
            entries = sorted(os.listdir(store / kind / folder))
            names += [f"{kind}/{folder}/{name}" for name in entries if name.endswith(".json")]
    return names


def read_dataset(store: Path) -> dict[str, dict[str, Any]]:
    """Return the videos that the store is meant to hold, by video_id: path, label, group, folds. Raises DamagedStoreError."""
    try:
        return {video["video_id"]: video for video in read_record(store / DATASET_FILE)["videos"]}
    except FileNotFoundError:
        return {}
    except DamagedStoreError as error:
        raise DamagedStoreError(
            f"{store / DATASET_FILE} does not fit its checksum; delete it and run extract-flow again with the data set's lists"
        ) from error


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
        with contextlib.suppress(FileNotFoundError):  # another run on this store was first
            if read_record(path)["video_id"] not in all_ids:
                path.unlink()


def read_table(store: Path, name: str) -> pd.DataFrame:
    """Return one of TABLES as it follows from the records that exist now."""
    file = fresh_index(store, name)
    return build_tables(store)[name] if file is None else pd.read_parquet(io.BytesIO(file))


def invalidate(store: Path) -> None:
    """Make the tables follow the records, until the next `consolidate`; every change of a record does so first."""
    (store / "index" / INDEX_STAMP).unlink(missing_ok=True)


def fresh_index(store: Path, name: str) -> bytes | None:
    """Return the Parquet file of one of TABLES if it says what the records say and is whole, else None."""
    try:
        index = read_record(store / "index" / INDEX_STAMP)
        if index["stamp"] != _stamp(store):
            return None
        data = (store / "index" / f"{name}.parquet").read_bytes()
    except (OSError, DamagedStoreError):  # no index, or one cut off while it was copied
        return None
    return data if hashlib.sha256(data).hexdigest() == index["files"][name] else None


def consolidate(store: Path) -> dict[str, pd.DataFrame]:
    """Write the tables under `index/` from all records, and return them."""
    stamp = _stamp(store)
    invalidate(store)
    tables = build_tables(store)
    files = {}
    for name, table in tables.items():
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        replace_file(store / "index" / f"{name}.parquet", buffer.getvalue())
        files[name] = hashlib.sha256(buffer.getbuffer()).hexdigest()
    write_record(store / "index" / INDEX_STAMP, {"stamp": stamp, "files": files})
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
        **{name: _long_table(commits, name, *columns) for name, columns in _LONG_TABLES.items()},
        "failures": pd.DataFrame([_flat(record) for record in failures]).reindex(columns=_failure_columns(failures)),
    }
    for name in ("videos", "failures"):
        integers = {column: "Int64" for column in _NULLABLE_INTEGERS if column in tables[name]}
        tables[name] = tables[name].astype(integers)
    return {name: table.sort_values(_KEYS[name], ignore_index=True) for name, table in tables.items()}


def _read_all(paths: list[Path]) -> Iterator[dict[str, Any]]:
    with ThreadPoolExecutor(8) as pool:  # the wait is the disk's, or the network's under it
        yield from (record for record in pool.map(_read_if_there, paths) if record is not None)


def _read_if_there(path: Path) -> dict[str, Any] | None:
    """Return a record, or None where it has gone since it was listed: a commit takes an older failure away."""
    try:
        return read_record(path)
    except FileNotFoundError:
        return None


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


def _long_table(commits: list[dict[str, Any]], name: str, counter: str, columns: dict[str, str]) -> pd.DataFrame:
    counts = [len(commit[name]["magnitude"]) for commit in commits]
    data: dict[str, Any] = {
        "video_id": np.repeat([commit["video_id"] for commit in commits], counts) if commits else [],
        counter: np.concatenate([np.arange(count) for count in counts]) if commits else [],
    }
    for column in columns:
        data[column] = list(itertools.chain.from_iterable(commit[name][column] for commit in commits))
    return pd.DataFrame(data).astype({"video_id": "str", counter: "int32", **columns})


def _stamp(store: Path) -> dict[str, Any]:
    """Name the data set and the set of records. Of these only names count, so that a copied store keeps its index whatever happened to the time
    stamps.
    """
    digest = hashlib.sha256()
    dataset = store / DATASET_FILE
    digest.update(dataset.read_bytes() if dataset.is_file() else b"")
    counts = {}
    for kind in ("commits", "failures"):
        names = _record_names(store, kind)
        counts[kind] = len(names)
        digest.update("\n".join([kind, *names]).encode())
    return {**counts, "names": digest.hexdigest()}
