"""Embeddings and predictions as tables and arrays.

Rows are keyed by (run, video_id, start); vectors are fixed_size_list<float32> in Parquet.
"""

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flowcpc.stores.base.atomic import replaced_file
from flowcpc.stores.base.errors import DamagedStoreError, counted
from flowcpc.stores.embedding_parts import EMBEDDING, read_parts, run_folder
from flowcpc.stores.flow_store import FlowStore, open_store

LEVELS = {"video": True, "segment": False}  # and whether the rows stand for whole videos
_LOGITS = "logits"


def vectors_to_arrow(vectors: NDArray[np.float32]) -> pa.Array:
    """Return float32 (n, D) as an Arrow fixed_size_list<float32>[D] of length n."""
    values = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])


def vectors_from_arrow(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Return an Arrow fixed_size_list<float32>[D] of length n as float32 (n, D)."""
    flat = column.combine_chunks()
    values = np.asarray(flat.flatten().to_numpy(zero_copy_only=False), np.float32)
    return values.reshape(len(flat), flat.type.list_size)


def read_embeddings(
    store: FlowStore | str | os.PathLike[str],
    run: str | os.PathLike[str],
    *,
    split: str | None = None,
    level: str | None = None,
    fold: int | None = None,
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """Return (rows, vectors): a DataFrame and float32 (n, D), both by video_id and start.

    Columns: run, video_id, start and stop (flows [start, stop) of the segment; -1 and the number of
    flows for a whole video), label, group, fold1 ..., split (in the run's fold, or `fold`), step of
    the run, generation of the flow.

    Raises FileNotFoundError without embeddings of the run; DamagedStoreError if a byte is not what
    was written; ValueError if several runs have this name, an argument names nothing, or embeddings
    are incomplete: `flowcpc embed` was stopped, flow was extracted again since, or videos were
    added to a split that has embeddings.

    Parameters
    ----------
    run : str or path
        The run's folder, or its name if the embeddings are in the store.
    split : str, optional
        Only videos of "train", "val" or "test".
    level : str, optional
        "video": only whole videos, each the mean of its segments. "segment": only segments.
    fold : int, optional
        The fold of the splits. Default: the run's.
    """
    if level is not None and level not in LEVELS:
        choices = ", ".join(LEVELS)
        raise ValueError(f"level={level!r} is unknown; choose one of {choices}, or None for both")
    store = store if isinstance(store, FlowStore) else open_store(store)
    whole_videos = None if level is None else LEVELS[level]
    manifest, table = read_parts(_find_folder(store, run), whole_videos=whole_videos)
    name, own = manifest.about["run"], f"fold{manifest.about['fold']}"
    again = f"run: flowcpc embed {store.path} {run}"
    if not manifest.finished:
        problem = f"the embeddings of {name} are incomplete, because flowcpc embed was stopped"
        raise ValueError(f"{problem}; {again}")
    videos = store.videos()
    column = own if fold is None else f"fold{fold}"
    if (fold is not None or split is not None) and column not in videos:
        raise ValueError(f"{store.path} has no {column}; give a fold that it has, or no split")
    if split is not None and not (videos[column] == split).any():
        problem = f"{store.path} has no videos in split={split!r} of {column}"
        raise ValueError(f"{problem}; give a split that it has")
    rows = _described(table, videos, column)
    if split is not None:
        chosen = (rows["split"] == split).to_numpy(bool)
        rows, table = rows[chosen].reset_index(drop=True), table.filter(pa.array(chosen))
    if gone := set(rows["video_id"]).difference(videos["video_id"]):
        problem = f"{name} has embeddings of {_named(gone)}, but {store.path} lost their flow"
        raise DamagedStoreError(f"{problem}; flowcpc verify says why, then {again}")
    if stale := set(rows["video_id"][_is_stale(rows, videos)]):
        problem = f"{store.path} has newer flow than the embeddings of {_named(stale)}"
        raise ValueError(f"{problem}; {again}")
    if missing := _missing(rows, videos, column if split else own, split):
        lacking = _named(missing, f"video of split={split!r}" if split else "video")
        raise ValueError(f"{name} has no embeddings of {lacking}; {again}")
    return rows, vectors_from_arrow(table[EMBEDDING])


def read_predictions(folder: str | os.PathLike[str]) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """Return (rows, logits) of an evaluation, RUN/evaluate/NAME.

    There is a row per test video and way of testing, and float32 (n, classes) in the same order.
    Logit k is of the k-th label in alphabetical order; retrieval scores no classes and has (n, 0).
    Raises FileNotFoundError without predictions, DamagedStoreError if they cannot be read.
    """
    file = Path(folder, "predictions.parquet")
    if not file.is_file():
        rule = "give the folder of an evaluation, as RUN/evaluate/NAME"
        raise FileNotFoundError(f"{folder} has no predictions.parquet; {rule}")
    data = file.read_bytes()  # not while parsing, which reports damage as OSError too
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        message = f"{file} is damaged ({error}); run flowcpc evaluate again"
        raise DamagedStoreError(message) from error
    if _LOGITS not in table.column_names:
        return table.to_pandas(), np.empty((len(table), 0), np.float32)
    return table.drop_columns([_LOGITS]).to_pandas(), vectors_from_arrow(table[_LOGITS])


def export_embeddings(
    store: FlowStore, run: str | os.PathLike[str], out: Path, failures: Mapping[str, str]
) -> int:
    """Write the embeddings of a run to one Parquet file and return its number of rows.

    Columns: run, video_id, path, start, stop, fps, step, embedding. The schema's metadata has JSON
    under the key flowcpc: the flow's numerics and `failures`, video_id -> why it has no embeddings.
    """
    rows, vectors = read_embeddings(store, run)
    videos = store.videos(["video_id", "path", "fps"])
    rows = rows.merge(videos, on="video_id", how="left", validate="many_to_one")
    columns = rows[["run", "video_id", "path", "start", "stop", "fps", "step"]]
    table = pa.Table.from_pandas(columns, preserve_index=False)
    table = table.append_column(EMBEDDING, vectors_to_arrow(vectors))
    about = {"numerics": store.numerics, "failures": dict(failures)}
    with replaced_file(out) as file:
        pq.write_table(table.replace_schema_metadata({"flowcpc": json.dumps(about)}), file)
    return len(table)


def embeddings_home(store: FlowStore, run: Path) -> Path:
    """Return the folder of folders of embeddings, in the run if the store is read-only."""
    inside = store.path / "embeddings"
    writable = os.access(inside if inside.exists() else store.path, os.W_OK)
    return inside if writable else run / "embeddings" / store.path.resolve().name


def embedding_folders(store: FlowStore) -> list[Path]:
    """Return the folders of embeddings in `store`, sorted."""
    return sorted(path for path in (store.path / "embeddings").glob("*-*") if path.is_dir())


def described_table(store: FlowStore, folder: Path) -> tuple[pa.Table, str]:
    """Return the rows of one folder with label, group and split, and a remark on missing ones.

    Rows of flow that was extracted again since are left out. Raises DamagedStoreError.
    """
    manifest, table = read_parts(folder)
    videos, column = store.videos(), f"fold{manifest.about['fold']}"
    rows = _described(table, videos, column)
    stale = _is_stale(rows, videos)
    remarks = []
    if stale.any():
        count = rows["video_id"][stale].nunique()
        remarks.append(f"those of {counted(count, 'video')} that changed since are left out")
    if not manifest.finished or _missing(rows, videos, column):
        remarks.append("some are missing")
    run, remark = manifest.about["run"], " and ".join(remarks)
    described = pa.Table.from_pandas(rows, preserve_index=False)
    joined = described.append_column(EMBEDDING, table[EMBEDDING]).filter(pa.array(~stale))
    return joined, remark and f"embeddings of {run}: {remark}; run flowcpc embed again"


def _described(table: pa.Table, videos: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the rows without vectors, with label, group, folds and the split in fold `column`."""
    rows = table.drop_columns([EMBEDDING]).to_pandas()
    folds = [name for name in map(str, videos.columns) if name.startswith("fold")]
    rows = rows.merge(videos[["video_id", "label", "group", *folds]], on="video_id", how="left")
    rows["split"] = rows.get(column)
    return rows


def _named(video_ids: Collection[str], noun: str = "video") -> str:
    return f"{counted(len(video_ids), noun)}, such as {min(video_ids)}"


def _missing(
    rows: pd.DataFrame, videos: pd.DataFrame, column: str, split: str | None = None
) -> set[str]:
    """Return the videos without embeddings that have `split` in the fold `column`.

    Default: any split that has embeddings, since embed takes whole splits.
    """
    splits = videos[column].fillna("") if column in videos else pd.Series("", videos.index)
    begun = splits[videos["video_id"].isin(rows["video_id"])].unique() if split is None else [split]
    return set(videos["video_id"][splits.isin(begun)]).difference(rows["video_id"])


def _is_stale(rows: pd.DataFrame, videos: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows were computed from other flow than the store has now."""
    generations = dict(zip(videos["video_id"], videos["generation"], strict=True))
    return np.array(rows["video_id"].map(generations) != rows["generation"], bool)


def _find_folder(store: FlowStore, run: str | os.PathLike[str]) -> Path:
    """Return a run's folder of embeddings. FileNotFoundError for none, ValueError for several."""
    name = Path(run).resolve().name
    homes = (store.path / "embeddings", Path(run, "embeddings", store.path.resolve().name))
    found = (path for home in homes for path in sorted(home.glob("*-*")) if path.is_dir())
    folders = [path for path in found if path.name.rpartition("-")[0] == run_folder(name)]
    if not folders:
        cure = f"make them with: flowcpc embed {store.path} {run}"
        raise FileNotFoundError(f"{store.path} has no embeddings of run {name}; {cure}")
    if len(folders) > 1:
        names = ", ".join(sorted(path.name for path in folders))
        problem = f"{store.path} has embeddings of several runs called {name}: {names}"
        raise ValueError(f"{problem}; delete or rename those that you do not need")
    return folders[0]
