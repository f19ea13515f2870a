from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import commit_flow
from store_cases import NUMERICS, failure, some_flow

from flowcpc.stores import layout
from flowcpc.stores.flow_store import FlowStore, create_store
from flowcpc.stores.records import catalog


@pytest.fixture
def store(tmp_path: Path) -> FlowStore:
    store = create_store(tmp_path / "s.flow", NUMERICS)
    commit_flow(store, "b", some_flow(12), label="Y", group="g1", folds={"fold1": "test"})
    commit_flow(
        store, "a", some_flow(3, seed=1), label="X", folds={"fold1": "train", "fold2": "test"}
    )
    store.record_failure(failure("c", "is empty"))
    return store


def test_tables_follow_from_the_records(store: FlowStore) -> None:
    videos = store.videos()
    assert videos["video_id"].tolist() == ["a", "b"]
    assert videos.columns[:7].tolist() == [
        "video_id",
        "path",
        "label",
        "group",
        "fold1",
        "fold2",
        "flows",
    ]
    assert videos["flows"].tolist() == [3, 12]
    assert pd.isna(videos["fold2"][1])
    assert store.failures()[["video_id", "fold1", "reason"]].values.tolist() == [
        ["c", "test", "is empty"]
    ]
    assert store.segments()[["video_id", "start", "stop"]].values.tolist() == [
        ["a", 0, 3],
        ["b", 0, 10],
        ["b", 10, 12],
    ]
    assert store.frames()["frame"].tolist() == [*range(3), *range(12)]


def test_frame_means_are_those_of_the_decoded_flow(store: FlowStore) -> None:
    frames = store.frames().set_index("video_id").loc["b"]
    decoded = store.read_flow("b").mean(axis=(2, 3), dtype=np.float64)
    np.testing.assert_allclose(frames[["mean_u", "mean_v"]].to_numpy(), decoded, atol=1e-6)


def test_index_and_records_answer_alike(store: FlowStore) -> None:
    before = {name: catalog.read_table(store.path, name) for name in catalog.TABLES}
    store.consolidate()
    for name in catalog.TABLES:
        pd.testing.assert_frame_equal(catalog.read_table(store.path, name), before[name])
        assert (store.path / "index" / f"{name}.parquet").is_file()


def test_a_stale_index_is_never_believed(store: FlowStore) -> None:
    store.consolidate()
    commit_flow(store, "d", some_flow(2))
    assert store.videos()["video_id"].tolist() == ["a", "b", "d"]
    catalog.invalidate(store.path)
    commit_flow(store, "d", some_flow(5))
    assert store.videos()["flows"].tolist() == [3, 12, 5]


def test_a_fresh_index_is_used(store: FlowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.consolidate()
    monkeypatch.setattr(
        catalog, "build_tables", lambda *_: pytest.fail("the index should have answered")
    )
    assert len(store.videos()) == 2


def test_a_damaged_failure_is_a_row_too(store: FlowStore) -> None:
    whole = store.failures()
    path = layout.failure_path(store.path, "c")
    intact = path.read_bytes()
    path.write_bytes(b"")
    store.consolidate()
    assert store.is_indexed("failures")
    assert store.failures()[["video_id", "kind"]].values.tolist() == [["c", "damaged"]]
    path.write_bytes(intact)
    pd.testing.assert_frame_equal(store.failures(), whole)
    path.write_bytes(b"")
    store.set_dataset([], [])
    assert len(store.failures()) == 0


@pytest.mark.parametrize("spoil", ["cut off", "stray", "of another"])
def test_a_damaged_commit_is_a_row_in_failures_and_the_others_answer(
    store: FlowStore, spoil: str
) -> None:
    whole = store.videos()
    path = layout.commit_path(store.path, "b")
    intact = path.read_bytes()
    if spoil == "cut off":
        path.write_bytes(intact[:-9])
    elif spoil == "of another":
        path.write_bytes(layout.commit_path(store.path, "a").read_bytes())
    else:
        path.with_name("notes.json").write_text("{}")
    bad, left = ("notes", ["a", "b"]) if spoil == "stray" else ("b", ["a"])
    for _ in range(2):  # from the records, and from an index made of them
        tables = store.tables(*catalog.TABLES)
        for name in ("videos", "shots", "segments", "frames"):
            assert tables[name]["video_id"].unique().tolist() == left
        damaged = tables["failures"].set_index("video_id").loc[bad]
        assert damaged["kind"] == "damaged"
        assert str(path.with_name(f"{bad}.json")) in damaged["reason"]
        store.consolidate()
    assert store.is_indexed("failures")
    if spoil != "stray":  # put back, it counts at once
        path.write_bytes(intact)
        pd.testing.assert_frame_equal(store.videos(), whole)


def test_a_commit_beats_an_older_failure(store: FlowStore) -> None:
    store.record_failure(failure("a", "worker was killed"))
    assert store.failures()["video_id"].tolist() == ["c"]


def test_an_empty_store_has_empty_tables(tmp_path: Path) -> None:
    store = create_store(tmp_path / "empty.flow", NUMERICS)
    store.consolidate()
    for table in (store.videos(), store.segments(), store.frames(), store.failures()):
        assert len(table) == 0
        assert "video_id" in table


def test_tables_do_not_depend_on_how_many_records_are_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that are escaped, and one too long to be kept whole, stand where their ids belong."""
    ids = ["b/c", "b c", "a" * 300, "~b", "-b", "ü%2F", "B"]
    store = create_store(tmp_path / "many.flow", NUMERICS)
    for n, video_id in enumerate(ids):
        commit_flow(
            store,
            video_id,
            some_flow(n + 1, seed=n),
            label=None if n % 2 else "X",
            folds={f"fold{n % 3}": "test"},
        )
    store.record_failure(failure("c", "is empty"))
    whole = {name: catalog.read_table(store.path, name) for name in catalog.TABLES}
    assert whole["videos"]["video_id"].tolist() == sorted(ids)
    monkeypatch.setattr(catalog, "_VIDEOS_AT_A_TIME", 2)
    for name, table in whole.items():
        pd.testing.assert_frame_equal(catalog.read_table(store.path, name), table)
    rows = store.consolidate()
    for name, table in whole.items():
        assert rows[name] == len(table)
        assert store.is_indexed(name)
        pd.testing.assert_frame_equal(catalog.read_table(store.path, name), table)


def test_an_index_that_others_wrote_between_is_not_taken_for_one_s_own(
    store: FlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two shards end together: neither may vouch for the tables of the other."""
    real = catalog._stamp
    done = []

    def stamped(path: Path, damaged: Iterable[str]) -> dict[str, object]:
        found = real(path, damaged)
        if not done:
            done.append(True)
            commit_flow(store, "late", some_flow(2))  # after the first has listed what there is
            catalog.consolidate(store.path)
        return found

    monkeypatch.setattr(catalog, "_stamp", stamped)
    catalog.consolidate(store.path)
    assert store.videos()["video_id"].tolist() == ["a", "b", "late"]
    assert len(store.frames()) == 3 + 12 + 2


def test_a_record_that_changes_while_the_index_is_made_leaves_none(
    store: FlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = catalog._failures

    def meanwhile(*arguments: Any) -> pd.DataFrame:
        commit_flow(store, "b", some_flow(5))  # under the same name
        return real(*arguments)

    monkeypatch.setattr(catalog, "_failures", meanwhile)
    catalog.consolidate(store.path)
    monkeypatch.undo()
    assert not store.is_indexed("videos")
    assert store.videos()["flows"].tolist() == [3, 5]


def test_a_failure_that_goes_while_it_is_read_is_pending_and_not_nowhere(
    store: FlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"video_id": "c", "path": "c.avi", "label": None, "group": None, "folds": {}}
    store.set_dataset([row], {"a", "b", "c"})
    real = catalog.record_file.read_record

    def gone(path: Path) -> dict[str, Any]:
        if "failures" in str(path):
            raise FileNotFoundError
        return real(path)

    monkeypatch.setattr(catalog.record_file, "read_record", gone)
    tables = catalog.build_tables(store.path, ("videos", "failures"))
    assert tables["failures"][["video_id", "kind"]].values.tolist() == [["c", catalog.KIND_PENDING]]


def test_nanoseconds_stay_exact_beside_rows_that_have_none(store: FlowStore) -> None:
    """A failure whose source seems to have changed would be tried again in every run."""
    stamp = {"source_bytes": 5, "source_mtime_ns": 1_764_000_000_123_456_789}
    store.record_failure({**failure("c", "is empty"), **stamp})
    rows = [
        {"video_id": name, "path": name, "label": None, "group": None, "folds": {}}
        for name in ("c", "d")
    ]
    store.set_dataset(rows, {"a", "b", "c", "d"})
    for _ in range(2):
        found = store.failures().set_index("video_id")
        assert found["kind"].tolist() == ["file", catalog.KIND_PENDING]
        assert int(found["source_mtime_ns"]["c"]) == stamp["source_mtime_ns"]
        assert pd.isna(found["source_mtime_ns"]["d"])
        store.consolidate()


def test_a_relabelled_video_is_not_answered_by_the_old_index(store: FlowStore) -> None:
    """The names of the records stay the same, and so does the stamp of an index."""
    store.consolidate()
    commit = store.commit_of("a")
    assert commit is not None
    source = {name: commit[name] for name in ("video_id", "path", "group")}
    store.relabel(commit, {**source, "label": "Z", "folds": {"fold1": "test"}})
    assert not store.is_indexed()
    for _ in range(2):  # from the records, and from an index of them
        rows = store.videos(["video_id", "label", "fold1"]).set_index("video_id")
        assert rows.loc["a"].tolist() == ["Z", "test"]
        store.consolidate()


@pytest.mark.parametrize("indexed", [False, True])
def test_only_the_columns_that_are_asked_for(store: FlowStore, *, indexed: bool) -> None:
    if indexed:
        store.consolidate()
    for name in catalog.TABLES:
        whole = catalog.read_table(store.path, name)
        columns = [str(column) for column in whole.columns[3:0:-1]]
        table = catalog.read_table(store.path, name, columns)
        pd.testing.assert_frame_equal(table, whole[columns])
        with pytest.raises(KeyError):
            catalog.read_table(store.path, name, ["video_id", "no_column"])


def test_an_index_that_changes_within_a_process_is_checked_again(store: FlowStore) -> None:
    store.consolidate()
    whole = store.videos()
    file = store.path / "index" / "videos.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert not store.is_indexed()
    pd.testing.assert_frame_equal(store.videos(), whole)
