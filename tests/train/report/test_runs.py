from pathlib import Path

import pandas as pd
import pytest

from flowcpc.train.evaluation.modes import MOTION, PRETRAINED, RANDOM
from flowcpc.train.evaluation.results import unit_name
from flowcpc.train.report.runs import Run, foremost_predictions, read_runs


def put_unit(run: Path, mode: str, labels: str, seed: int, *encoders: str) -> None:
    """Write the results of an evaluation, and predictions that name unit, encoder and protocol."""
    folder = run / "evaluate" / unit_name(mode, labels, 1, seed)
    folder.mkdir(parents=True)
    unit = {"mode": mode, "labels_per_class": labels, "fold": 1, "seed": seed}
    rows = [
        {**unit, "encoder": one, "protocol": kind}
        for one in encoders
        for kind in ("random8", "uniform8")
    ]
    pd.DataFrame(rows).to_parquet(folder / "results.parquet")
    made = [
        {
            **row,
            "video_id": "v",
            "label": "a",
            "predicted": f"{mode} {labels} {seed} {row['encoder']} {row['protocol']}",
        }
        for row in rows
    ]
    pd.DataFrame(made).to_parquet(folder / "predictions.parquet")


def predicted(run: Run) -> list[str]:
    found = foremost_predictions(run)
    assert found is not None
    return found[0]["predicted"].tolist()


def test_the_foremost_predictions_are_of_the_pretrained_linear_layer_with_all_labels(
    tmp_path: Path,
) -> None:
    for mode, labels, seed in (
        ("knn", "all", 0),
        ("linear", "5", 0),
        ("linear", "all", 0),
        ("linear", "all", 1),
    ):
        put_unit(tmp_path, mode, labels, seed, MOTION, RANDOM, PRETRAINED)
    (run,) = read_runs([tmp_path])
    assert predicted(run) == [f"linear all {seed} pretrained uniform8" for seed in (0, 1)]
    found = foremost_predictions(run)
    assert found is not None
    assert found[1] == "pretrained encoder, linear, all labels, uniform8, 1 fold x 2 seeds"
    for seed in (0, 1):  # somebody needed the room
        (
            tmp_path / "evaluate" / unit_name("linear", "all", 1, seed) / "predictions.parquet"
        ).unlink()
    assert predicted(run) == ["knn all 0 pretrained uniform8"]


def test_without_a_pretrained_encoder_what_comes_nearest(tmp_path: Path) -> None:
    put_unit(tmp_path, "random", "all", 0, MOTION, RANDOM)
    assert predicted(read_runs([tmp_path])[0]) == ["random all 0 random uniform8"]
    put_unit(tmp_path / "other", "linear", "all", 0, MOTION)
    assert foremost_predictions(read_runs([tmp_path / "other"])[0]) is None


def test_names_are_as_long_as_they_must_be(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a/run", "b/run", "tiny")]
    for folder in folders:
        put_unit(folder, "linear", "all", 0, PRETRAINED)
    assert [run.name for run in read_runs(folders)] == ["a/run", "b/run", "tiny"]
    assert read_runs(folders[:1])[0].name == "run"


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    put_unit(tmp_path, "linear", "all", 0, PRETRAINED)
    file = next(tmp_path.glob("evaluate/*/results.parquet"))
    file.write_bytes(b"PAR1")
    with pytest.raises(
        ValueError, match=r"results\.parquet is damaged .*; run its evaluation again"
    ):
        read_runs([tmp_path])
