from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flowcpc.train.evaluation.scoreboard import Evaluation, comparisons, summarise


def row(encoder: str, share: float, **changes: Any) -> dict[str, Any]:
    about = {
        "run": "r",
        "preset": "tiny",
        "mode": "linear",
        "labels_per_class": "all",
        "protocol": "uniform8",
    }
    numbers = {
        "fold": 1,
        "seed": 0,
        "videos": 100,
        "chance": 0.1,
        "top1": share,
        "top5": 0.9,
        "mean_class": share,
    }
    return {**about, "encoder": encoder, **numbers, **changes}


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows))


def test_mean_and_standard_deviation_over_folds_and_seeds() -> None:
    found = [
        row("pretrained", share, fold=fold, seed=seed)
        for share, fold, seed in ((0.4, 1, 0), (0.5, 1, 1), (0.9, 2, 0))
    ]
    (pretrained, random) = summarise(table(*found, row("random", 0.3))).to_dict("records")
    assert pretrained["units"] == 3
    assert pretrained["top1"] == pytest.approx(0.6)
    assert pretrained["top1_std"] == pytest.approx(np.std([0.4, 0.5, 0.9], ddof=1))
    assert random["units"] == 1
    assert np.isnan(random["top1_std"])
    text = Evaluation(True, table(*found), pd.DataFrame(), Path("x")).to_text()
    assert "60.0 ± 26.5 %" in text
    text = Evaluation(
        True,
        table(row("pretrained", 0.4), row("pretrained", 0.5, seed=1)),
        pd.DataFrame(),
        Path("x"),
    ).to_text()
    assert "mean ± standard deviation over 1 fold x 2 seeds" in text


def test_every_accuracy_is_set_beside_its_baselines() -> None:
    rows = table(
        row("pretrained", 0.6),
        row("shuffled labels", 0.12),
        row("random", 0.5),
        row("motion statistics", 0.65, protocol="whole video"),
    )
    lines = comparisons(rows, table(row("scratch", 0.59, mode="scratch")))
    assert lines == [
        "pretrained is 6.0 times chance.",
        "pretrained - random: +10.0 points (standard error 7.0).",
        "pretrained - scratch: +1.0 points (standard error 6.9), within that error.",
        "pretrained - motion statistics: -5.0 points (standard error 6.8), within that error.",
        "shuffled labels: 12.0%, chance is 10.0%: at chance, as expected.",
    ]
    (leak,) = [
        line
        for line in comparisons(rows.replace({0.12: 0.3}), pd.DataFrame())
        if "shuffled" in line
    ]
    assert leak.endswith("NOT at chance: find the reason.")


def test_a_baseline_that_is_not_there_is_named_with_its_command() -> None:
    def lacking(*rows: dict[str, object], beside: pd.DataFrame) -> list[str]:
        return [line for line in comparisons(table(*rows), beside) if "was not evaluated" in line]

    linear = (row("pretrained", 0.6), row("random", 0.5))
    (line,) = lacking(*linear, beside=pd.DataFrame())
    assert line == (
        "scratch was not evaluated on these labels, folds and seeds: "
        "flowcpc evaluate ... --mode scratch"
    )
    assert lacking(*linear, beside=table(row("scratch", 0.5))) == []
    assert len(lacking(row("pretrained", 0.6, mode="finetune"), beside=pd.DataFrame())) == 2
    assert lacking(row("scratch", 0.6, mode="scratch"), beside=pd.DataFrame()) == []


def test_guessing_the_largest_class_is_chance() -> None:
    """If 80 of 100 videos are of one class, predicting it gives 80 %, but chance per class."""
    rows = table(row("pretrained", 0.9), row("shuffled labels", 0.8, mean_class=1 / 3)).assign(
        chance=1 / 3
    )
    assert comparisons(rows, pd.DataFrame())[-1] == (
        "shuffled labels: 33.3%, chance is 33.3%: at chance, as expected."
    )


def test_only_folds_add_test_videos() -> None:
    """Another seed tests the same videos again, so the standard error stays the same."""
    pairs = [(1, 0), (1, 1), (1, 2)]
    rows = table(
        *(
            row(name, share, fold=f, seed=s)
            for f, s in pairs
            for name, share in (("pretrained", 0.6), ("random", 0.5))
        )
    )
    assert "(standard error 7.0)" in comparisons(rows, pd.DataFrame())[1]
    rows["fold"] = [1, 1, 2, 2, 3, 3]
    assert "(standard error 4.0)" in comparisons(rows, pd.DataFrame())[1]


def test_retrieval_is_judged_by_its_first_neighbour() -> None:
    changes = {"mode": "retrieval", "top1": np.nan, "top5": np.nan, "mean_class": np.nan}
    rows = table(
        row("pretrained", 0, **changes, r1=0.4, r50=1.0),
        row("random", 0, **changes, r1=0.2, r50=0.9),
    )
    assert "pretrained - random: +20.0 points" in comparisons(rows, pd.DataFrame())[1]
    text = Evaluation(True, rows, pd.DataFrame(), Path("x")).to_text()
    assert "r50" in text
    assert "top1" not in text


def test_nothing_stands_beside_recall_that_has_none() -> None:
    recall = {"mode": "retrieval", "r1": 0.4, "r50": 1.0}
    rows = table(row("pretrained", 0, **recall), row("random", 0, **recall)).drop(
        columns=["top1", "top5", "mean_class"]
    )
    for beside in (table(row("scratch", 0.9)), table(row("scratch", 0.9, r1=np.nan))):
        assert not any("scratch" in line or "nan" in line for line in comparisons(rows, beside))
        text = Evaluation(True, rows, beside, Path("x")).to_text()
        assert "scratch" not in text
        assert "top1" not in text


def test_runs_of_one_name_and_schedules_are_told_apart() -> None:
    rows = table(
        *(
            row("pretrained", share, path=path, schedule=schedule)
            for path, schedule, share in (
                ("a/run", "cpu", 0.1),
                ("a/run", "paper", 0.2),
                ("b/run", "cpu", 0.3),
            )
        )
    )
    assert summarise(rows)["top1"].tolist() == [0.1, 0.2, 0.3]


def test_a_mode_s_own_untrained_encoder_comes_before_another_mode_s() -> None:
    rows = table(row("pretrained", 0.6, mode="knn"), row("random", 0.5, mode="knn"))
    beside = table(row("random", 0.9, mode="linear"))
    assert "pretrained - random: +10.0 points" in comparisons(rows, beside)[1]


def test_another_mode_s_baseline_is_never_the_encoder_that_is_judged() -> None:
    rows = table(row("random", 0.5, mode="random"), row("shuffled labels", 0.1, mode="random"))
    lines = comparisons(rows, table(row("scratch", 0.7, mode="scratch")))
    assert lines[:2] == [
        "random is 5.0 times chance.",
        "random - scratch: -20.0 points (standard error 6.8).",
    ]
