from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import commit_flow
from click.testing import CliRunner
from embedding_cases import put_embeddings

import flowcpc
from flowcpc.commands import main
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.embeddings import (
    export_embeddings,
    read_embeddings,
    read_predictions,
    vectors_to_arrow,
)
from flowcpc.stores.flow_store import FlowStore, open_store
from flowcpc.train.evaluation.results import write_table

FOLDS = {
    "a": {"fold1": "train", "fold2": "test"},
    "b": {"fold1": "test", "fold2": "train"},
    "c": {"fold1": "test"},
}
VECTORS = np.arange(1, 13, dtype=np.float32).reshape(3, 4) / 7


@pytest.fixture
def store(tmp_path: Path, make_store: Callable[..., Path]) -> FlowStore:
    flow = np.zeros((3, 2, 16, 16), np.float32)
    return open_store(
        make_store(tmp_path, dict.fromkeys("abc", flow), labels={"a": "X", "b": "Y"}, folds=FOLDS)
    )


def test_rows_and_vectors_are_in_the_same_order(store: FlowStore) -> None:
    put_embeddings(store, "run-1", VECTORS)
    for run in ("run-1", Path("somewhere/run-1")):
        rows, vectors = read_embeddings(store.path, run)
        assert rows["video_id"].tolist() == ["a", "a", "b", "b", "c", "c"]
        assert rows["start"].tolist() == [-1, 0] * 3
        assert rows["stop"].tolist() == [3, 1] * 3
        assert set(rows["run"]) == {"run-1"}
        np.testing.assert_array_equal(vectors, np.stack([VECTORS, -VECTORS], axis=1).reshape(6, 4))
        assert vectors.dtype == np.float32


def test_what_the_store_says_of_a_video_is_read_with_it(store: FlowStore) -> None:
    put_embeddings(store, "run", VECTORS)
    rows = read_embeddings(store, "run", level="video")[0].set_index("video_id")
    assert rows["label"].where(rows["label"].notna(), "-").to_dict() == {
        "a": "X",
        "b": "Y",
        "c": "-",
    }
    assert rows["split"].to_dict() == {name: folds["fold1"] for name, folds in FOLDS.items()}
    commit = store.commit_of("a")
    assert commit is not None
    store.relabel(commit, {"label": "Z"})
    assert read_embeddings(store, "run")[0]["label"].tolist()[:2] == ["Z", "Z"]


@pytest.mark.parametrize(
    ("chosen", "ids"),
    [
        ({"split": "train"}, ["a", "a"]),
        ({"split": "test", "level": "video"}, ["b", "c"]),
        ({"split": "train", "fold": 2, "level": "segment"}, ["b"]),
        ({"level": "segment"}, ["a", "b", "c"]),
    ],
)
def test_splits_and_levels(store: FlowStore, chosen: dict, ids: list[str]) -> None:
    put_embeddings(store, "run", VECTORS)
    rows, vectors = flowcpc.read_embeddings(store, run="run", **chosen)
    assert rows["video_id"].tolist() == ids
    sign = np.where(rows["start"] == -1, 1, -1)[:, None]
    np.testing.assert_array_equal(vectors, sign * VECTORS[["abc".index(name) for name in ids]])


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"split": "val"}, "no videos in split='val' of fold1"),
        ({"fold": 3}, "has no fold3"),
        ({"level": "frame"}, "level='frame' is unknown"),
    ],
)
def test_what_there_is_not_is_refused(store: FlowStore, chosen: dict, words: str) -> None:
    put_embeddings(store, "run", VECTORS)
    with pytest.raises(ValueError, match=words):
        read_embeddings(store, "run", **chosen)


def test_plain_parquet_readers_see_fixed_size_lists(store: FlowStore) -> None:
    folder = put_embeddings(store, "run", VECTORS)
    table = pd.read_parquet(folder).sort_values(["video_id", "start"], ignore_index=True)
    assert table["embedding"][4].tolist() == pytest.approx(VECTORS[2].tolist())
    for part in folder.glob("*.parquet"):
        assert (
            str(pq.read_schema(part).field("embedding").type)
            == "fixed_size_list<element: float>[4]"
        )


def test_embeddings_that_are_not_all_there_are_refused(store: FlowStore) -> None:
    put_embeddings(store, "run", VECTORS[:2], finish=False)
    with pytest.raises(ValueError, match="incomplete, because flowcpc embed was stopped"):
        read_embeddings(store, "run")
    put_embeddings(store, "run", VECTORS[:1], videos=["a"])
    assert len(read_embeddings(store, "run", split="train")[0]) == 2
    with pytest.raises(ValueError, match=r"no embeddings of 1 video of split='test', such as c"):
        read_embeddings(store, "run", split="test")


def test_a_split_of_which_only_a_part_was_embedded_is_never_taken_for_all(store: FlowStore) -> None:
    """Stopped among all videos and begun again with one split, or with videos that came later."""
    put_embeddings(store, "run", VECTORS[:2])  # a: train, b: one of two test videos
    with pytest.raises(
        ValueError, match=r"run has no embeddings of 1 video, such as c; run: flowcpc embed"
    ):
        read_embeddings(store, "run")
    sql = "SELECT DISTINCT video_id FROM embeddings ORDER BY 1"
    said = CliRunner().invoke(main.main, ["query", str(store.path), sql]).stderr
    assert "embeddings of run: some are missing; run flowcpc embed again" in said
    assert len(read_embeddings(store, "run", split="train")[0]) == 2
    put_embeddings(store, "run", VECTORS)
    assert len(read_embeddings(store, "run")[0]) == 6
    commit_flow(store, "d", np.ones((3, 2, 16, 16), np.float32))
    assert len(read_embeddings(store, "run")[0]) == 6  # in no split, of which there is none
    commit_flow(store, "e", np.ones((3, 2, 16, 16), np.float32), folds={"fold1": "train"})
    with pytest.raises(ValueError, match=r"no embeddings of 1 video, such as e"):
        read_embeddings(store, "run")


def test_embeddings_of_flow_that_was_replaced_are_refused(store: FlowStore) -> None:
    put_embeddings(store, "run", VECTORS)
    commit_flow(store, "b", np.ones((3, 2, 16, 16), np.float32), folds=FOLDS["b"])
    with pytest.raises(
        ValueError,
        match=r"newer flow than the embeddings of 1 video, such as b; run: flowcpc embed",
    ):
        read_embeddings(store, "run")
    assert len(read_embeddings(store, "run", split="train")[0]) == 2
    sql = "SELECT DISTINCT video_id FROM embeddings ORDER BY 1"
    assert flowcpc.query(store, sql)["video_id"].tolist() == ["a", "c"]
    said = CliRunner().invoke(main.main, ["query", str(store.path), sql]).stderr
    assert (
        "embeddings of run: those of 1 video that changed since are left out; "
        "run flowcpc embed again" in said
    )


def test_absent_and_ambiguous_runs_are_errors_in_words(store: FlowStore) -> None:
    with pytest.raises(FileNotFoundError, match="no embeddings of run other"):
        read_embeddings(store, "other")
    put_embeddings(store, "run", VECTORS)
    put_embeddings(store, "run", VECTORS, config="def")
    with pytest.raises(ValueError, match="run-abc, run-def"):
        read_embeddings(store, "run")


def test_one_file_for_others_says_what_it_lacks(store: FlowStore, tmp_path: Path) -> None:
    put_embeddings(store, "run", VECTORS)
    assert export_embeddings(store, "run", tmp_path / "out.parquet", {"d": "is empty"}) == 6
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert table.columns.tolist() == [
        "run",
        "video_id",
        "path",
        "start",
        "stop",
        "fps",
        "step",
        "embedding",
    ]
    assert table["path"].tolist() == [f"{name}.avi" for name in "aabbcc"]
    assert table["embedding"][2].tolist() == VECTORS[1].tolist()
    assert (
        b'"failures": {"d": "is empty"}'
        in pq.read_schema(tmp_path / "out.parquet").metadata[b"flowcpc"]
    )


def test_predictions_are_rows_and_logits(tmp_path: Path) -> None:
    rows = pa.table({"video_id": ["a", "b"], "label": ["X", "Y"], "predicted": ["X", "X"]})
    logits = np.array([[1, 0], [0.5, 0.25]], np.float32)
    pq.write_table(
        rows.append_column("logits", vectors_to_arrow(logits)), tmp_path / "predictions.parquet"
    )
    found, values = flowcpc.read_predictions(tmp_path)
    assert found["predicted"].tolist() == ["X", "X"]
    np.testing.assert_array_equal(values, logits)
    with pytest.raises(FileNotFoundError, match=r"no predictions\.parquet"):
        read_predictions(tmp_path / "other")
    (tmp_path / "predictions.parquet").write_bytes(b"x")
    with pytest.raises(DamagedStoreError, match="run flowcpc evaluate again"):
        read_predictions(tmp_path)


def test_a_changed_number_in_predictions_is_damage(tmp_path: Path) -> None:
    """pyarrow reports such damage as OSError."""
    file = tmp_path / "predictions.parquet"
    numbers = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    write_table(file, pa.table({"logits": vectors_to_arrow(numbers)}))
    data = file.read_bytes()
    assert data.count(numbers[7].tobytes()) == 1
    file.write_bytes(data.replace(numbers[7].tobytes(), numbers[8].tobytes()))
    with pytest.raises(
        DamagedStoreError, match=r"predictions\.parquet is damaged .*; run flowcpc evaluate again"
    ):
        read_predictions(tmp_path)


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7])
def test_predictions_with_a_hole_are_damage(tmp_path: Path, place: float) -> None:
    file = tmp_path / "predictions.parquet"
    numbers = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    write_table(
        file,
        pa.table({"video_id": [str(n) for n in range(200)], "logits": vectors_to_arrow(numbers)}),
    )
    data = file.read_bytes()
    start = int(place * len(data))
    file.write_bytes(data[:start] + bytes(16) + data[start + 16 :])
    with pytest.raises(DamagedStoreError, match="is damaged"):
        read_predictions(tmp_path)
