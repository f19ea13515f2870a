from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from stores.embeddings import read_embeddings, write_embeddings
from stores.flow_store import FlowStore, open_store


@pytest.fixture
def store(tmp_path: Path, make_store: Callable[..., Path]) -> FlowStore:
    return open_store(make_store(tmp_path, {"a": np.zeros((3, 2, 16, 16), np.float32)}))


ROWS = pd.DataFrame({"video_id": ["a", "a", "b"], "start": [-1, 0, -1], "label": ["X", "X", None]})
VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4) / 7


def test_round_trip(store: FlowStore) -> None:
    write_embeddings(store, "run-1", "abc", ROWS, VECTORS)
    for run in ("run-1", Path("somewhere/run-1")):
        rows, vectors = read_embeddings(store.path, run)
        np.testing.assert_array_equal(vectors, VECTORS)
        assert rows["video_id"].tolist() == ["a", "a", "b"]
        assert rows["run"].unique().tolist() == ["run-1"]


def test_plain_parquet_readers_see_fixed_size_lists(store: FlowStore) -> None:
    folder = write_embeddings(store, "run", "abc", ROWS, VECTORS)
    column = pq.read_table(folder / "embeddings.parquet")["embedding"]
    assert str(column.type) == "fixed_size_list<element: float>[4]"
    assert pd.read_parquet(folder)["embedding"][2].tolist() == pytest.approx(VECTORS[2].tolist())


def test_rewriting_replaces(store: FlowStore) -> None:
    write_embeddings(store, "run", "abc", ROWS, VECTORS)
    write_embeddings(store, "run", "abc", ROWS[:1], VECTORS[:1] + 1)
    rows, vectors = read_embeddings(store, "run")
    assert (len(rows), vectors[0, 0]) == (1, 1)


def test_absent_and_ambiguous_runs_are_errors_in_words(store: FlowStore) -> None:
    with pytest.raises(FileNotFoundError, match="no embeddings of run other"):
        read_embeddings(store, "other")
    write_embeddings(store, "run", "abc", ROWS, VECTORS)
    write_embeddings(store, "run", "def", ROWS, VECTORS)
    with pytest.raises(ValueError, match="run-abc, run-def"):
        read_embeddings(store, "run")


def test_rows_and_vectors_must_match(store: FlowStore) -> None:
    with pytest.raises(ValueError, match="2 rows were given for 3 embeddings"):
        write_embeddings(store, "run", "abc", ROWS[:2], VECTORS)
