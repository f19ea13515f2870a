from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from train.results import UnitFolder, read_results, write_table

BASIS = {"weights": "w", "settings": {"steps": 3, "rates": ((0, 0.1),)}}
ROWS = pd.DataFrame({"run": ["r"], "mode": ["linear"], "top1": [0.5]})


def test_results_of_several_runs_are_one_table(tmp_path: Path) -> None:
    for run, unit in (("a", "linear-all-fold1-seed0"), ("a", "knn-5-fold1-seed0"), ("b", "retrieval-all-fold1-seed0")):
        rows = ROWS.assign(run=run, mode=unit.split("-")[0])
        UnitFolder(tmp_path / run / "evaluate" / unit, BASIS).finish({}, rows.assign(r1=0.25) if run == "b" else rows)
    write_table(tmp_path / "a/evaluate/features/0/x.parquet", pa.table({"no": ["result"]}))
    table = read_results([tmp_path / "a", tmp_path / "b"])
    assert table[["run", "mode"]].to_numpy().tolist() == [["a", "knn"], ["a", "linear"], ["b", "retrieval"]]
    assert table["r1"].isna().tolist() == [True, True, False]
    assert len(read_results(tmp_path / "b")) == 1
    with pytest.raises(FileNotFoundError, match="c holds no results; make some with: flowcpc evaluate STORE"):
        read_results([tmp_path / "a", tmp_path / "c"])


def test_a_unit_is_finished_when_its_results_are_there(tmp_path: Path) -> None:
    folder = UnitFolder(tmp_path, BASIS)
    assert folder.results() is None
    for file in (folder.state("shuffled labels"), folder.part("pretrained")):
        file.touch()
    folder.finish({"predictions": pa.table({"a": [1]})}, ROWS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "evaluation.json",
        "predictions.parquet",
        "results.parquet",
    ]
    again = UnitFolder(tmp_path, BASIS)
    assert not again.replaced
    pd.testing.assert_frame_equal(again.results(), ROWS)
    (tmp_path / "results.parquet").write_bytes(b"damaged")
    assert again.results() is None


def test_what_followed_from_something_else_goes(tmp_path: Path) -> None:
    folder = UnitFolder(tmp_path, BASIS)
    folder.state("pretrained").touch()
    assert not UnitFolder(tmp_path, BASIS | {"weights": "v"}).replaced  # nothing was finished
    assert not folder.state("pretrained").exists()
    UnitFolder(tmp_path, BASIS).finish({}, ROWS)
    other = UnitFolder(tmp_path, BASIS | {"weights": "v"})
    assert other.replaced
    assert other.results() is None
    (tmp_path / "evaluation.json").write_bytes(b"{")
    assert UnitFolder(tmp_path, BASIS).results() is None
