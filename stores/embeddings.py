"""Embeddings as Parquet: rows keyed (run, video_id, start), vectors as fixed_size_list<float32>."""

import hashlib
import io
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stores.atomic import replace_file
from stores.errors import DamagedStoreError
from stores.flow_store import FlowStore, open_store
from stores.records import read_record, write_record

_COLUMN = "embedding"
_FILE = "embeddings.parquet"
_CHECKSUM = "_checksum.json"  # Parquet readers of a folder leave such names out


def vectors_to_arrow(vectors: NDArray[np.float32]) -> pa.Array:
    """Return float32 (n, D) as an Arrow fixed_size_list<float32>[D] of length n."""
    values = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])


def vectors_from_arrow(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Return an Arrow fixed_size_list<float32>[D] of length n as float32 (n, D)."""
    chunk = column.combine_chunks()
    flat = chunk.combine_chunks() if isinstance(chunk, pa.ChunkedArray) else chunk
    values = np.asarray(flat.flatten().to_numpy(zero_copy_only=False), np.float32)
    return values.reshape(len(flat), flat.type.list_size)


def write_embeddings(
    store: FlowStore, run: str, config_hash: str, rows: pd.DataFrame, vectors: NDArray[np.float32]
) -> Path:
    """Write embeddings of one run into the store, replacing those of the same run and configuration; returns the
    folder.

    `rows` has at least video_id and start (the first flow of the segment, -1 for a whole video); `vectors` is float32 (n, D).
    """
    if len(rows) != len(vectors):
        raise ValueError(f"{len(rows)} rows were given for {len(vectors)} embeddings; there must be one row each")
    table = pa.Table.from_pandas(rows.assign(run=run), preserve_index=False).append_column(
        _COLUMN, vectors_to_arrow(vectors)
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    folder = store.path / "embeddings" / f"{_run_folder(run)}-{config_hash}"
    # The checksum goes first: between the two the folder counts as damaged, and never as the embeddings of another run.
    (folder / _CHECKSUM).unlink(missing_ok=True)
    replace_file(folder / _FILE, buffer.getvalue())
    write_record(folder / _CHECKSUM, {"sha256": hashlib.sha256(buffer.getbuffer()).hexdigest()})
    return folder


def embedding_folders(store: FlowStore) -> list[Path]:
    """Return the folders of embeddings in `store`, sorted."""
    return sorted(path for path in (store.path / "embeddings").glob("*-*") if path.is_dir())


def read_folder(folder: Path) -> pa.Table:
    """Return the Arrow table of one run's embeddings. Raises DamagedStoreError when its bytes are not those that were written."""
    try:
        data = (folder / _FILE).read_bytes()
        expected = read_record(folder / _CHECKSUM)["sha256"]
    except FileNotFoundError as error:
        raise DamagedStoreError(f"{folder} lacks {Path(error.filename).name}; run flowcpc embed again") from error
    if hashlib.sha256(data).hexdigest() != expected:
        raise DamagedStoreError(f"{folder / _FILE} does not fit its checksum; run flowcpc embed again")
    return pq.read_table(pa.BufferReader(data))


def read_embeddings(
    store: FlowStore | str | os.PathLike[str], run: str | os.PathLike[str]
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """Return (rows, vectors): a DataFrame with video_id, start, label ..., and float32 (n, D) in the same order.

    `run` is the run's folder or its name. Raises FileNotFoundError when the store has no embeddings of it, ValueError when it has several.
    """
    store = store if isinstance(store, FlowStore) else open_store(store)
    name = Path(run).resolve().name
    found = [path for path in embedding_folders(store) if path.name.rpartition("-")[0] == _run_folder(name)]
    if not found:
        raise FileNotFoundError(
            f"{store.path} has no embeddings of run {name}; make them with: flowcpc embed {store.path} {run}"
        )
    if len(found) > 1:
        names = ", ".join(sorted(path.name for path in found))
        raise ValueError(
            f"{store.path} has embeddings of several runs called {name}: {names}; delete or rename those that are not meant"
        )
    table = read_folder(found[0])
    return table.drop_columns([_COLUMN]).to_pandas(), vectors_from_arrow(table[_COLUMN])


def _run_folder(run: str) -> str:
    return re.sub(r"[^\w.-]", "_", run).lstrip(".-") or "run"
