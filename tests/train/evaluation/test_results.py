import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcpc.stores.base import atomic
from flowcpc.train.evaluation import results
from flowcpc.train.evaluation.results import UnitFolder, read_results, read_table, write_table

BASIS = {"weights": "w", "settings": {"steps": 3, "rates": ((0, 0.1),)}}
ROWS = pd.DataFrame({"run": ["r"], "mode": ["linear"], "top1": [0.5]})


def test_results_of_several_runs_are_one_table(tmp_path: Path) -> None:
    for run, unit in (
        ("a", "linear-all-fold1-seed0"),
        ("a", "knn-5-fold1-seed0"),
        ("b", "retrieval-all-fold1-seed0"),
    ):
        rows = ROWS.assign(run=run, mode=unit.split("-")[0])
        UnitFolder(tmp_path / run / "evaluate" / unit, BASIS).finish(
            {}, rows.assign(r1=0.25) if run == "b" else rows
        )
    write_table(tmp_path / "a/evaluate/features/0/x.parquet", pa.table({"no": ["result"]}))
    table = read_results([tmp_path / "a", tmp_path / "b"])
    assert table[["run", "mode"]].to_numpy().tolist() == [
        ["a", "knn"],
        ["a", "linear"],
        ["b", "retrieval"],
    ]
    assert table["path"].tolist() == [str(tmp_path / run) for run in ("a", "a", "b")]
    assert table["r1"].isna().tolist() == [True, True, False]
    assert len(read_results(tmp_path / "b")) == 1
    with pytest.raises(
        FileNotFoundError,
        match="c has no finished results; create them with: flowcpc evaluate STORE",
    ):
        read_results([tmp_path / "a", tmp_path / "c"])


def test_a_unit_is_finished_when_its_results_are_there(tmp_path: Path) -> None:
    folder = UnitFolder(tmp_path, BASIS)
    assert not folder.begin()
    assert folder.results() is None
    for file in (folder.state("pretrained"), folder.part("pretrained")):
        file.touch()
    folder.finish({"predictions": pa.table({"a": [1]})}, ROWS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "evaluation.json",
        "predictions.parquet",
        "results.parquet",
    ]
    again = UnitFolder(tmp_path, BASIS)
    assert not again.begin()
    pd.testing.assert_frame_equal(again.results(), ROWS)


def test_what_followed_from_something_else_goes_when_a_unit_begins(tmp_path: Path) -> None:
    folder = UnitFolder(tmp_path, BASIS)
    folder.begin()
    folder.state("pretrained").touch()
    other = UnitFolder(tmp_path, BASIS | {"weights": "v"})
    assert not other.begin()  # nothing was finished
    assert not folder.state("pretrained").exists()
    other.finish({}, ROWS)
    assert folder.results() is None
    pd.testing.assert_frame_equal(other.results(), ROWS)  # to ask for other results removes none
    assert folder.begin()
    assert other.results() is None
    assert not (tmp_path / "results.parquet").exists()
    (tmp_path / "evaluation.json").write_bytes(b"{")
    assert folder.results() is None


@given(place=st.integers(0, 10_000), change=st.integers(1, 255))
def test_damage_is_no_error_that_a_reader_has_to_know(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int
) -> None:
    file = tmp_path_factory.mktemp("damaged") / "results.parquet"
    write_table(file, pa.table({"top1": np.random.default_rng(0).normal(size=200)}))
    data = bytearray(file.read_bytes())
    place %= len(data)
    file.write_bytes(data[:place])
    assert read_table(file) is None
    data[place] ^= change
    file.write_bytes(data)
    read_table(file)


def test_a_changed_number_is_noticed(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=200)
    write_table(tmp_path / "x.parquet", pa.table({"top1": numbers}))
    data = (tmp_path / "x.parquet").read_bytes()
    assert data.count(numbers[7].tobytes()) == 1
    (tmp_path / "x.parquet").write_bytes(data.replace(numbers[7].tobytes(), numbers[8].tobytes()))
    assert read_table(tmp_path / "x.parquet") is None


def test_a_table_that_is_not_there_is_none_and_one_that_cannot_be_opened_an_error(
    tmp_path: Path,
) -> None:
    assert read_table(tmp_path / "nothing.parquet") is None
    with pytest.raises(IsADirectoryError):
        read_table(tmp_path)


def test_damaged_results_are_a_sentence_to_who_reads_them_and_none_to_who_makes_them(
    tmp_path: Path,
) -> None:
    folder = UnitFolder(tmp_path / "evaluate" / "knn-all-fold1-seed0", BASIS)
    folder.begin()
    folder.finish({}, ROWS)
    file = folder.path / "results.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    assert folder.results() is None
    with pytest.raises(
        ValueError, match=r"results\.parquet is damaged or was changed; run its evaluation again"
    ):
        read_results(tmp_path)


@pytest.mark.parametrize("name", ["results", "predictions"])
def test_whole_tables_that_were_changed_are_no_results(tmp_path: Path, name: str) -> None:
    folder = UnitFolder(tmp_path / "evaluate" / "knn-all-fold1-seed0", BASIS)
    folder.begin()
    folder.finish({"predictions": pa.table({"predicted": ["A"]})}, ROWS)
    whole = (folder.path / f"{name}.parquet").read_bytes()
    write_table(
        folder.path / f"{name}.parquet",
        pa.Table.from_pandas(ROWS.assign(top1=0.99), preserve_index=False),
    )
    assert folder.results() is None
    assert folder.begin() == "are damaged or were changed"
    if name == "results":
        with pytest.raises(ValueError, match=r"results\.parquet is damaged or was changed"):
            read_results(tmp_path)
    (folder.path / f"{name}.parquet").write_bytes(whole)
    pd.testing.assert_frame_equal(folder.results(), ROWS)


def finished(path: Path) -> UnitFolder:
    """A unit with a table and weights."""
    folder = UnitFolder(path / "evaluate" / "finetune-all-fold1-seed0", BASIS)
    folder.begin()
    (folder.path / "weights.safetensors").write_bytes(b"weights")
    folder.finish({"predictions": pa.table({"predicted": ["A"]})}, ROWS)
    return folder


@pytest.mark.parametrize("name", ["predictions.parquet", "weights.safetensors"])
def test_where_a_file_is_lost_or_changed_nothing_is_finished(tmp_path: Path, name: str) -> None:
    folder = finished(tmp_path)
    file = folder.path / name
    whole = file.read_bytes()
    assert folder.results() is not None
    file.unlink()
    assert folder.results() is None
    assert folder.begin() == "are damaged or were changed"
    file.write_bytes(whole[:-1])
    assert folder.results() is None
    file.write_bytes(whole)
    pd.testing.assert_frame_equal(folder.results(), ROWS)


@pytest.mark.parametrize("hashes", [None, 5, [], "results.parquet"])
def test_hashes_of_another_kind_are_damage(tmp_path: Path, hashes: object) -> None:
    folder = finished(tmp_path)
    file = folder.path / "evaluation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tables": hashes}))
    assert folder.results() is None
    assert folder.begin() == "are damaged or were changed"
    with pytest.raises(ValueError, match=r"results\.parquet is damaged or was changed"):
        read_results(tmp_path)
    folder.finish({}, ROWS)
    pd.testing.assert_frame_equal(folder.results(), ROWS)
    assert len(read_results(tmp_path)) == 1


@pytest.mark.parametrize("last", ["predictions.parquet", "evaluation.json", "results.parquet"])
def test_a_kill_while_a_unit_is_finished_leaves_it_unfinished_and_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    folder = UnitFolder(tmp_path, BASIS)
    folder.begin()
    write_table(folder.part("pretrained"), pa.table({"a": [1]}))

    def kill(path: Path, data: bytes) -> None:
        if path.name == last:
            raise KeyboardInterrupt
        atomic.replace_file(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(results, "replace_file", kill)
        with pytest.raises(KeyboardInterrupt):
            folder.finish({"predictions": pa.table({"a": [2]})}, ROWS)
    again = UnitFolder(tmp_path, BASIS)
    assert again.results() is None
    assert again.begin() == ""
    assert read_table(again.part("pretrained")) is not None
    again.finish({"predictions": pa.table({"a": [2]})}, ROWS)
    pd.testing.assert_frame_equal(again.results(), ROWS)


def test_results_without_hashes_are_read(tmp_path: Path) -> None:
    """An earlier version wrote no hashes."""
    folder = UnitFolder(tmp_path, BASIS)
    folder.finish({}, ROWS)
    (tmp_path / "evaluation.json").write_text(json.dumps(BASIS))
    pd.testing.assert_frame_equal(folder.results(), ROWS)
