"""Tables over a store: videos, shots, segments, frames and failures, built from the records of commits and failures.

The Parquet files under `index/` are a cache of what the records say. They carry a stamp of the record names they were
made from; where the stamp does not fit (an extraction was killed, or is running), the tables are made from the records
instead, so an answer is never stale. Records are read some at a time, so that an index takes little memory however many there are.
A video whose commit is damaged is a row in failures, and the tables answer for the others.
"""

import contextlib
import hashlib
import io
import itertools
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from flowcpc.stores.base.atomic import replaced_file
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.base.hashing import sha256_of_file
from flowcpc.stores.layout import (
    DATASET_FILE,
    INDEX_STAMP,
    STORE_FILE,
    id_of_record,
    is_cut_key,
    record_name,
)
from flowcpc.stores.records.commits import Record, read_commit, store_digest
from flowcpc.stores.records.record_file import (
    pack_columns,
    read_record,
    record_names,
    unpack_columns,
    write_record,
)

TABLES = ("videos", "shots", "segments", "frames", "failures")
KIND_PENDING = "pending"
KIND_DAMAGED = "damaged"  # there is a record, and it cannot be used
_VIDEOS_AT_A_TIME = 1000
_SOURCE_COLUMNS = ["video_id", "path", "label", "group"]
_FAILURE_COLUMNS = [
    *_SOURCE_COLUMNS,
    "kind",
    "reason",
    "attempts",
    "time",
    "host",
    "seconds",
    "source_bytes",
    "source_mtime_ns",
]
# What a column holds does not depend on whether any row has a value there. Nanoseconds do not survive a float.
_INTEGERS = ("source_bytes", "source_mtime_ns", "header_frames", "attempts", "pid")
_TEXTS = (
    *_SOURCE_COLUMNS,
    "kind",
    "reason",
    "host",
    "generation",
    "decoder",
    "backend",
    "versions",
    "source_sha256",
)
_NUMBERS = ("time", "seconds")
_MEANS = {"mean_u": "<f4", "mean_v": "<f4", "magnitude": "<f4", "clip_rate": "<f4"}
_SPAN = {"start": "<i4", "stop": "<i4", "start_s": "<f8", "stop_s": "<f8"}
# Tables with several rows per video: the column that counts them, and the others.
_LONG_TABLES = {
    "shots": ("shot", {**_SPAN, **_MEANS}),
    "segments": ("segment", {"shot": "<i4", **_SPAN, **_MEANS}),
    "frames": ("frame", {"time_s": "<f8", **_MEANS, "error": "<f4", "cut": "?"}),
}
Tables = dict[str, pd.DataFrame]


def pack_rows(table: str, columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the rows that one video has in shots, segments or frames as its commit record keeps them."""
    return pack_columns(columns, _LONG_TABLES[table][1])


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


def whole_dataset(store: Path) -> int:
    """Return how many videos the data set has, those included that no run was asked for; 0 where nobody said. Raises as `read_dataset`."""
    found = read_dataset(store)
    return int(read_record(store / DATASET_FILE).get("whole", 0)) if found else 0


def merge_dataset(
    store: Path, videos: Sequence[Mapping[str, Any]], all_ids: Collection[str]
) -> None:
    """Add `videos` (video_id, path, label, group, folds) to what the store is meant to hold.

    What it was meant to hold before stays if its id is in `all_ids`, the whole data set; other videos were taken out of
    the data set since, so they and their failures are forgotten. A video of the data set without commit or failure is
    pending: a row in failures, so that none is ever silently absent.
    """
    before = read_dataset(store)
    meant = {name: video for name, video in before.items() if name in all_ids}
    meant |= {video["video_id"]: dict(video) for video in videos}
    # Who names just those of the store knows no more of the data set than it does.
    whole = max(len(all_ids), whole_dataset(store) if set(all_ids) == before.keys() else 0)
    if meant != before or whole != whole_dataset(store) or not (store / DATASET_FILE).exists():
        record = {"videos": [meant[name] for name in sorted(meant)], "whole": whole}
        write_record(store / DATASET_FILE, record)
    for name in set(record_names(store, "failures")) - {
        record_name(video_id) for video_id in all_ids
    }:
        (store / "failures" / name).unlink(
            missing_ok=True
        )  # another run on this store may be first


def read_table(store: Path, name: str) -> pd.DataFrame:
    """Return one of TABLES as it follows from the records that exist now."""
    return read_tables(store, (name,))[name]


def read_tables(store: Path, names: Sequence[str]) -> Tables:
    """Return some of TABLES by name; where no index answers, the records are read once for all of them."""
    files = {name: file for name in names if (file := fresh_index(store, name)) is not None}
    if len(files) < len(names):  # a video that is committed meanwhile must not be in none of them
        return build_tables(store, names)
    return {name: pd.read_parquet(io.BytesIO(file)) for name, file in files.items()}


def invalidate(store: Path) -> None:
    """Make the tables follow the records, until the next `consolidate`; every change of a record does so first."""
    (store / "index" / INDEX_STAMP).unlink(missing_ok=True)


def fresh_index(store: Path, name: str) -> bytes | None:
    """Return the Parquet file of one of TABLES if it says what the records say and is whole, else None."""
    try:
        index = read_record(store / "index" / INDEX_STAMP)
        if "stamp" not in index or index["stamp"] != _stamp(
            store, index["stamp"].get("damaged", ())
        ):
            return None
        data = (store / "index" / f"{name}.parquet").read_bytes()
    except (OSError, DamagedStoreError):  # no index, or one cut off while it was copied
        return None
    return data if hashlib.sha256(data).hexdigest() == index["files"][name] else None


def consolidate(store: Path) -> dict[str, int]:
    """Write the tables under `index/` from all records; returns the rows of each.

    They count only if no record was changed meanwhile, and nobody else began to write them.
    """
    token = {"building": uuid.uuid4().hex}
    write_record(store / "index" / INDEX_STAMP, token)
    stamp = _stamp(store, ())
    rows: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context(replaced_file(store / "index" / f"{name}.parquet"))
            for name in TABLES
        }
        videos = []
        names, damaged = record_names(store, "commits"), dict[str, str]()
        with contextlib.ExitStack() as open_writers:
            writers: dict[str, pq.ParquetWriter] = {}
            for commits in _read_commits(store, names, damaged):
                videos.append(_rows("videos", commits))
                for name in _LONG_TABLES:
                    table = _rows(name, commits)
                    part = pa.Table.from_pandas(table, preserve_index=False)
                    if name not in writers:
                        writers[name] = open_writers.enter_context(
                            pq.ParquetWriter(files[name], part.schema)
                        )
                    writers[name].write_table(part.cast(writers[name].schema))
                    rows[name] = rows.get(name, 0) + len(table)
        for name, table in (
            ("videos", _join_videos(videos)),
            ("failures", _failures(store, names, damaged)),
        ):
            table.to_parquet(files[name], index=False)
            rows[name] = len(table)
        for file in files.values():
            file.flush()
        hashes = {
            name: sha256_of_file(Path(file.name)) for name, file in files.items()
        }  # of these, not what others put in place
    stamp["damaged"] = _digests(store, damaged)
    with contextlib.suppress(FileNotFoundError):
        if read_record(store / "index" / INDEX_STAMP) == token:
            write_record(store / "index" / INDEX_STAMP, {"stamp": stamp, "files": hashes})
    return {name: rows[name] for name in TABLES}


def build_tables(store: Path, names: Sequence[str]) -> Tables:
    """Return some of TABLES made from the records of commits and failures, each sorted by its key."""
    # Listed once, so that a video which is committed meanwhile is in one table as before, and not in none.
    committed, damaged = record_names(store, "commits"), dict[str, str]()
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in names if name != "failures"}
    for commits in _read_commits(store, committed, damaged):
        for name, found in parts.items():
            found.append(_rows(name, commits))
    tables = {
        name: _join_videos(found) if name == "videos" else pd.concat(found, ignore_index=True)
        for name, found in parts.items()
    }
    return {
        **tables,
        **({"failures": _failures(store, committed, damaged)} if "failures" in names else {}),
    }


def _read_commits(
    store: Path, committed: Sequence[str], damaged: dict[str, str]
) -> Iterator[list[Record]]:
    """Yield the commits called `committed`, some at a time, in the order of their videos' ids; at least one list. Those that cannot be
    used go into `damaged`, with the reason.
    """
    digest = store_digest(store)

    def read(name: str) -> Record | None:
        try:
            return read_commit(store, name, digest)
        except (DamagedStoreError, OSError) as error:
            damaged[f"commits/{name}"] = _why(store / "commits" / name, error)
            return None

    with ThreadPoolExecutor(8) as pool:  # the wait is the disk's, or the network's under it
        names = sorted(committed, key=lambda name: _id_in_name(store, name))
        for first in range(0, max(1, len(names)), _VIDEOS_AT_A_TIME):
            found = pool.map(read, names[first : first + _VIDEOS_AT_A_TIME])
            yield [commit for commit in found if commit is not None]


def _id_in_name(store: Path, name: str) -> str:
    """Return the video_id that a record's name says, or the record itself where the name is too short to."""
    if is_cut_key(name):
        with contextlib.suppress(DamagedStoreError, OSError, KeyError):
            return str(read_record(store / "commits" / name)["video_id"])
    return id_of_record(name)


def _rows(name: str, commits: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    if name == "videos":
        return _frame([_video_row(commit) for commit in commits])
    counter, dtypes = _LONG_TABLES[name]
    parts = [unpack_columns(commit[name]) for commit in commits]
    counts = [commit[name]["rows"] for commit in commits]
    empty = np.zeros(0)
    data: dict[str, Any] = {
        "video_id": np.repeat(np.array([commit["video_id"] for commit in commits], object), counts),
        counter: np.concatenate([empty, *map(np.arange, counts)]),
        **{
            column: np.concatenate(
                [empty.astype(dtypes[column]), *(part[column] for part in parts)]
            )
            for column in dtypes
        },
    }
    return pd.DataFrame(data).astype({"video_id": "str", counter: "int32"})


def _join_videos(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join parts of the videos table: the folds right behind the group, then what all have, in the order of its first appearance."""
    seen = dict.fromkeys(
        [
            *_SOURCE_COLUMNS,
            *_folds(itertools.chain.from_iterable(part.columns for part in parts)),
            "flows",
        ]
    )
    seen.update(dict.fromkeys(str(column) for part in parts for column in part))
    # A part in which nobody has a label, say, must not decide what labels are.
    filled = [part.dropna(axis=1, how="all") for part in parts if len(part)]
    joined = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
    return _with_dtypes(joined.reindex(columns=list(seen)))


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as a table in which large integers stay exact, although some rows have none."""
    table = pd.DataFrame(rows)
    for name in table.columns.intersection(list(_INTEGERS)):
        table[name] = pd.array([row.get(name) for row in rows], "Int64")
    return table


def _video_row(commit: Mapping[str, Any]) -> dict[str, Any]:
    source = {key: commit[key] for key in (*_SOURCE_COLUMNS, "folds")}
    return {**_flat(source), **commit["video"], "generation": commit["generation"]}


def _failures(store: Path, committed: Sequence[str], damaged: dict[str, str]) -> pd.DataFrame:
    """Return a row for every video of the data set without a commit, why it failed or that it was not reached, and for every `damaged` record;
    those of failures are added to them here.
    """
    failed = set(record_names(store, "failures"))
    # A crash between a commit and the removal of an older failure leaves both; the commit is the truth.
    standing = sorted(failed.difference(committed))

    def read(name: str) -> Record | None:
        try:
            return read_record(store / "failures" / name)
        except (
            FileNotFoundError
        ):  # it has gone since it was listed: a commit takes an older failure away
            return None
        except (DamagedStoreError, OSError) as error:
            damaged[f"failures/{name}"] = _why(store / "failures" / name, error)
            return None

    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(standing, pool.map(read, standing), strict=True))
    rows = [record for record in found.values() if record is not None]
    # What has gone since it was listed is pending, as far as these tables know.
    gone = {
        name
        for name, record in found.items()
        if record is None and f"failures/{name}" not in damaged
    }
    known = failed.union(committed) - gone
    meant = {record_name(video_id): video for video_id, video in read_dataset(store).items()}
    rows += [
        {**video, "kind": KIND_PENDING, "reason": "is not extracted yet"}
        for name, video in meant.items()
        if name not in known
    ]
    for path, reason in damaged.items():
        name = path.partition("/")[2]
        video = meant.get(name, {"video_id": _id_in_name(store, name), "folds": {}})
        rows.append({**video, "kind": KIND_DAMAGED, "reason": reason})
    table = _frame([_flat(row) for row in rows])
    columns = [*_SOURCE_COLUMNS, *_folds(table), *_FAILURE_COLUMNS[len(_SOURCE_COLUMNS) :]]
    return _with_dtypes(table.reindex(columns=columns)).sort_values("video_id", ignore_index=True)


def _why(path: Path, error: Exception) -> str:
    return f"{path} cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: value for key, value in record.items() if key != "folds"}, **record["folds"]}


def _folds(columns: Iterable[Any]) -> list[str]:
    return sorted({str(column) for column in columns if str(column).startswith("fold")})


def _with_dtypes(table: pd.DataFrame) -> pd.DataFrame:
    dtypes = {
        **dict.fromkeys(_INTEGERS, "Int64"),
        "flows": "int64",
        **dict.fromkeys([*_TEXTS, *_folds(table)], "str"),
        **dict.fromkeys(_NUMBERS, "float64"),
    }
    return table.astype({name: dtype for name, dtype in dtypes.items() if name in table})


def _digests(store: Path, names: Iterable[str]) -> dict[str, str]:
    return {
        name: sha256_of_file(store / name) if (store / name).is_file() else "" for name in names
    }


def _stamp(store: Path, damaged: Iterable[str]) -> dict[str, Any]:
    """Name the store, the data set and the set of records. Of these only names count, so that a copied store keeps its index whatever happened to the
    time stamps; but a `damaged` one may be whole again under its name.
    """
    digest = hashlib.sha256()
    for file in (store / STORE_FILE, store / DATASET_FILE):
        digest.update(file.read_bytes() if file.is_file() else b"")
    counts: dict[str, Any] = {"damaged": _digests(store, damaged)}
    for kind in ("commits", "failures"):
        names = record_names(store, kind)
        counts[kind] = len(names)
        digest.update("\n".join([kind, *names]).encode())
    return {**counts, "names": digest.hexdigest()}
