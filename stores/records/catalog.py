"""Tables over a store: videos, shots, segments, frames and failures, built from its records.

The Parquet files under `index/` are a cache. Their stamp names the records that they were made
from. While it does not fit (an extraction runs or was killed), tables are built from the records,
so they are never stale. Records are read in groups, so memory does not grow with their number.
A video whose commit is damaged is a row in failures; the tables hold the others.
"""

import contextlib
import functools
import hashlib
import itertools
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from flowcpc.stores import layout
from flowcpc.stores.base.atomic import replaced_file, sha256_of_file
from flowcpc.stores.base.errors import DamagedStoreError, first_line
from flowcpc.stores.records import record_file
from flowcpc.stores.records.commits import read_commit, store_digest
from flowcpc.stores.records.contract import CommitRecord, PackedColumns
from flowcpc.stores.records.dataset_file import read_dataset

TABLES = ("videos", "shots", "segments", "frames", "failures")
KIND_PENDING = "pending"
KIND_DAMAGED = "damaged"  # there is a record, and it cannot be used
_VIDEOS_AT_A_TIME = 1000
_SOURCE_COLUMNS = ["video_id", "path", "label", "group"]
_FAILURE_COLUMNS = ["kind", "reason", "attempts", "time", "host", "seconds"]
_STAMP_COLUMNS = ["source_bytes", "source_mtime_ns"]
# Dtypes do not depend on whether any row has a value. Nanoseconds do not survive a float.
_INTEGERS = (*_STAMP_COLUMNS, "header_frames", "attempts", "pid")
_TEXTS = (*_SOURCE_COLUMNS, "kind", "reason", "host", "generation", "decoder", "backend")
_DTYPES = {
    **dict.fromkeys(_INTEGERS, "Int64"),
    **dict.fromkeys((*_TEXTS, "versions", "source_sha256"), "str"),
    **dict.fromkeys(("time", "seconds"), "float64"),
    "flows": "int64",
}
_MEANS = {"mean_u": "<f4", "mean_v": "<f4", "magnitude": "<f4", "clip_rate": "<f4"}
_SPAN = {"start": "<i4", "stop": "<i4", "start_s": "<f8", "stop_s": "<f8"}
# Tables with several rows per video: the column that counts them, and the others.
_LONG_TABLES = {
    "shots": ("shot", {**_SPAN, **_MEANS}),
    "segments": ("segment", {"shot": "<i4", **_SPAN, **_MEANS}),
    "frames": ("frame", {"time_s": "<f8", **_MEANS, "error": "<f4", "cut": "?"}),
}
Tables = dict[str, pd.DataFrame]
Columns = Mapping[str, list[str]]  # of each table; all of a table that is not named


def pack_tables(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, PackedColumns]:
    """Return a video's rows in shots, segments and frames as its commit record keeps them."""
    dtypes = {name: dtypes for name, (_, dtypes) in _LONG_TABLES.items()}
    return {name: record_file.pack_columns(tables[name], dtypes[name]) for name in dtypes}


def read_table(store: Path, name: str, columns: list[str] | None = None) -> pd.DataFrame:
    """Return one of TABLES, or some `columns` of it; see `read_tables`."""
    return read_tables(store, [name], {} if columns is None else {name: columns})[name]


def read_tables(store: Path, names: Sequence[str], columns: Columns | None = None) -> Tables:
    """Return some of TABLES, all of one moment. Without an index, records are read only once.

    Raises KeyError for a column that does not exist.
    """
    columns = columns or {}
    with opened_index(store, names) as files:
        if files is None:
            return build_tables(store, names, columns)
        try:
            return {
                name: _selected(pd.read_parquet(file, columns=columns.get(name)), columns.get(name))
                for name, file in files.items()
            }
        except pa.ArrowInvalid as error:  # the files are intact, so a column is unknown
            raise KeyError(first_line(error)) from error


def _selected(table: pd.DataFrame, columns: list[str] | None) -> pd.DataFrame:
    return table if columns is None else table[columns]


def invalidate(store: Path) -> None:
    """Make tables follow the records until the next `consolidate`. Call it before any change."""
    (store / "index" / layout.INDEX_STAMP).unlink(missing_ok=True)


@contextlib.contextmanager
def opened_index(store: Path, names: Sequence[str]) -> Iterator[Mapping[str, IO[bytes]] | None]:
    """Yield the open Parquet files of some of TABLES by name if they are fresh, otherwise None."""
    with contextlib.ExitStack() as stack:
        files: Mapping[str, IO[bytes]] | None = None
        with contextlib.suppress(OSError, DamagedStoreError):  # no index, or one that was cut off
            index = record_file.read_record(store / "index" / layout.INDEX_STAMP)
            stamp = index.get("stamp")
            if stamp and stamp == _stamp(store, stamp.get("damaged", ())):
                paths = {name: store / "index" / f"{name}.parquet" for name in names}
                opened = {name: stack.enter_context(open(paths[name], "rb")) for name in names}
                if all(_hash_of(file) == index["files"][name] for name, file in opened.items()):
                    files = opened
        yield files


def _hash_of(file: IO[bytes]) -> str:
    status = os.fstat(file.fileno())
    return _hash_once(file.name, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(64)
def _hash_once(path: str, *_: int) -> str:
    """Return the hash of a file; a process that reads an unchanged index again need not hash it."""
    return sha256_of_file(Path(path))


def consolidate(store: Path) -> dict[str, int]:
    """Write the tables under `index/` from all records; returns the rows of each.

    They count only if meanwhile no record changed and no other process began to write them.
    """
    token, stamp_file = {"building": uuid.uuid4().hex}, store / "index" / layout.INDEX_STAMP
    record_file.write_record(stamp_file, token)
    stamp = _stamp(store, ())
    names, damaged = record_file.record_names(store, "commits"), dict[str, str]()
    rows: dict[str, int] = dict.fromkeys(TABLES, 0)
    with contextlib.ExitStack() as stack:
        paths = {name: store / "index" / f"{name}.parquet" for name in TABLES}
        files = {name: stack.enter_context(replaced_file(paths[name])) for name in TABLES}
        videos = []
        with contextlib.ExitStack() as open_writers:
            writers: dict[str, pq.ParquetWriter] = {}
            for commits in _read_commits(store, names, damaged):
                videos.append(_rows("videos", commits))
                for name in _LONG_TABLES:
                    part = pa.Table.from_pandas(_rows(name, commits), preserve_index=False)
                    if name not in writers:
                        writer = pq.ParquetWriter(files[name], part.schema)
                        writers[name] = open_writers.enter_context(writer)
                    writers[name].write_table(part.cast(writers[name].schema))
                    rows[name] += len(part)
        joined = {"videos": _join_videos(videos), "failures": _failures(store, names, damaged)}
        for name, table in joined.items():
            table.to_parquet(files[name], index=False)
            rows[name] = len(table)
        for file in files.values():
            file.flush()
        # Hashes of these files, not of what another process may put in their place.
        hashes = {name: sha256_of_file(Path(file.name)) for name, file in files.items()}
    stamp["damaged"] = _digests(store, damaged)
    with contextlib.suppress(FileNotFoundError):
        if record_file.read_record(stamp_file) == token:
            record_file.write_record(stamp_file, {"stamp": stamp, "files": hashes})
    return rows


def build_tables(store: Path, names: Sequence[str], columns: Columns | None = None) -> Tables:
    """Return some of TABLES built from the records, each sorted by its key."""
    columns = columns or {}
    # Listed once: a video that is committed meanwhile is in one table as before, not in none.
    committed, damaged = record_file.record_names(store, "commits"), dict[str, str]()
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in names if name != "failures"}
    for commits in _read_commits(store, committed, damaged):
        for name, rows in parts.items():
            part = _rows(name, commits)
            rows.append(part if name == "videos" else _selected(part, columns.get(name)))
    tables = {
        name: _join_videos(rows) if name == "videos" else pd.concat(rows, ignore_index=True)
        for name, rows in parts.items()
    }
    if "failures" in names:
        tables["failures"] = _failures(store, committed, damaged)
    return {name: _selected(table, columns.get(name)) for name, table in tables.items()}


def _read_commits(
    store: Path, committed: Sequence[str], damaged: dict[str, str]
) -> Iterator[list[CommitRecord]]:
    """Yield the commits called `committed` in groups, by video_id; at least one list."""
    read = functools.partial(read_commit, store, digest=store_digest(store))
    names = sorted(committed, key=lambda name: _id_in_name(store, name))
    for first in range(0, max(1, len(names)), _VIDEOS_AT_A_TIME):
        some = names[first : first + _VIDEOS_AT_A_TIME]
        commits = _read_all(read, store / "commits", some, damaged)
        yield [commit for commit in commits if commit is not None]


def _read_all(
    read: Callable[[str], Any], folder: Path, names: Sequence[str], damaged: dict[str, str]
) -> list[Any]:
    """Return read(name) of every record; None for one that goes into `damaged`, with the reason."""

    def attempt(name: str) -> Any:
        try:
            return read(name)
        except DamagedStoreError as error:
            damaged[f"{folder.name}/{name}"] = str(error)
        except OSError as error:
            damaged[f"{folder.name}/{name}"] = f"{folder / name} cannot be read ({error.strerror})"

    with ThreadPoolExecutor(8) as pool:  # reading waits for the disk or the network
        return list(pool.map(attempt, names))


def _id_in_name(store: Path, name: str) -> str:
    """Return the video_id in a record's name, or in the record if the name was cut."""
    if layout.CUT_MARK in name:
        with contextlib.suppress(DamagedStoreError, OSError, KeyError):
            return str(record_file.read_record(store / "commits" / name)["video_id"])
    return layout.id_of_record(name)


def _rows(name: str, commits: Sequence[CommitRecord]) -> pd.DataFrame:
    if name == "videos":
        return _frame([_video_row(commit) for commit in commits])
    counter, dtypes = _LONG_TABLES[name]
    packed: list[PackedColumns] = [cast(dict[str, Any], commit)[name] for commit in commits]
    parts, counts = (
        [record_file.unpack_columns(rows) for rows in packed],
        [rows["rows"] for rows in packed],
    )
    ids = np.array([commit["video_id"] for commit in commits], object)
    numbers = np.concatenate([np.zeros(0), *map(np.arange, counts)])
    data: dict[str, Any] = {"video_id": np.repeat(ids, counts), counter: numbers}
    for column, dtype in dtypes.items():
        data[column] = np.concatenate([np.zeros(0, dtype), *(part[column] for part in parts)])
    return pd.DataFrame(data).astype({"video_id": "str", counter: "int32"})


def _join_videos(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join parts of videos: source, folds, flows, then the others in the order of appearance."""
    columns = list(itertools.chain.from_iterable(map(str, part.columns) for part in parts))
    order = list(dict.fromkeys([*_SOURCE_COLUMNS, *_folds(columns), "flows", *columns]))
    # A part in which no video has a label must not decide the dtype of labels.
    filled = [part.dropna(axis=1, how="all") for part in parts if len(part)]
    joined = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
    return _with_dtypes(joined.reindex(columns=order))


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as a table in which large integers stay exact although some rows have none."""
    table = pd.DataFrame(rows)
    for name in table.columns.intersection(list(_INTEGERS)):
        table[name] = pd.array([row.get(name) for row in rows], "Int64")
    return table


def _video_row(commit: CommitRecord) -> dict[str, Any]:
    source = {name: commit[name] for name in _SOURCE_COLUMNS}  # type: ignore[literal-required]
    return {**source, **commit["folds"], **commit["video"], "generation": commit["generation"]}


def _failures(store: Path, committed: Sequence[str], damaged: dict[str, str]) -> pd.DataFrame:
    """Return a row per video without a commit and per damaged record; extends `damaged`."""
    failed = set(record_file.record_names(store, "failures"))
    # A crash between a commit and the removal of an older failure leaves both; the commit counts.
    standing = sorted(failed.difference(committed))

    def read(name: str) -> dict[str, Any] | None:
        with contextlib.suppress(FileNotFoundError):  # a commit deleted it since it was listed
            return record_file.read_record(store / "failures" / name)
        return None

    found = _read_all(read, store / "failures", standing, damaged)
    records = dict(zip(standing, found, strict=True))
    rows = [record for record in records.values() if record is not None]
    known = {*committed, *failed}  # what is gone by now is pending as far as these tables know
    known -= {n for n, row in records.items() if row is None and f"failures/{n}" not in damaged}
    wanted = {
        layout.record_name(video_id): video for video_id, video in read_dataset(store).items()
    }
    pending = {"kind": KIND_PENDING, "reason": "is not extracted yet"}
    rows += [{**video, **pending} for name, video in wanted.items() if name not in known]
    for path, reason in damaged.items():
        name = path.partition("/")[2]
        video: Mapping[str, Any] = wanted.get(name) or {"video_id": _id_in_name(store, name)}
        rows.append({"folds": {}, **video, "kind": KIND_DAMAGED, "reason": reason})
    table = _frame([{**row, **row["folds"]} for row in rows])
    others = [*_FAILURE_COLUMNS, *_STAMP_COLUMNS]
    table = table.reindex(columns=[*_SOURCE_COLUMNS, *_folds(map(str, table.columns)), *others])
    return _with_dtypes(table).sort_values("video_id", ignore_index=True)


def _folds(columns: Iterable[str]) -> list[str]:
    return sorted({name for name in columns if name.startswith("fold") and name != "folds"})


def _with_dtypes(table: pd.DataFrame) -> pd.DataFrame:
    dtypes = {**_DTYPES, **dict.fromkeys(_folds(map(str, table.columns)), "str")}
    return table.astype({name: dtype for name, dtype in dtypes.items() if name in table})


def _digests(store: Path, names: Iterable[str]) -> dict[str, str]:
    paths = {name: store / name for name in names}
    return {name: sha256_of_file(path) if path.is_file() else "" for name, path in paths.items()}


def _stamp(store: Path, damaged: Iterable[str]) -> dict[str, Any]:
    """Return what names the store, the data set and the set of records.

    Only names of records count, so that a copied store keeps its index whatever its time stamps;
    but a `damaged` record may have been restored under its name.
    """
    digest = hashlib.sha256()
    for file in (store / layout.STORE_FILE, store / layout.DATASET_FILE):
        digest.update(file.read_bytes() if file.is_file() else b"")
    counts: dict[str, Any] = {"damaged": _digests(store, damaged)}
    for kind in ("commits", "failures"):
        names = record_file.record_names(store, kind)
        counts[kind] = len(names)
        digest.update("\n".join([kind, *names]).encode())
    return {**counts, "names": digest.hexdigest()}
