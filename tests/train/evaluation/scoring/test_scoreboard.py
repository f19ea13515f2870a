from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flowcpc.train.evaluation.scoring.scoreboard import (
    Evaluation,
    comparisons,
    spreads,
    summarise,
)
from flowcpc.train.evaluation.scoring.uncertainty import difference


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


def test_each_repeat_has_a_spread_of_its_own() -> None:
    """Seeds repeat the evaluation of one run, but give an untrained encoder new weights."""
    shares = {(1, 0): 0.4, (1, 1): 0.5, (1, 2): 0.6, (2, 0): 0.8, (2, 1): 0.9, (2, 2): 0.7}
    found = [
        row(name, share, fold=fold, seed=seed)
        for name in ("pretrained", "random")
        for (fold, seed), share in shares.items()
    ]
    pretrained, random = summarise(table(*found)).to_dict("records")
    over_seeds = pytest.approx(np.std([0.6, 0.7, 0.65], ddof=1))
    for one, name, other in ((pretrained, "seeds", "weights"), (random, "weights", "seeds")):
        assert one["top1"] == pytest.approx(0.65)
        assert (one[name], one[other], one["folds"]) == (3, 1, 2)
        assert one[f"{name}_std"] == over_seeds
        assert np.isnan([one[f"{other}_std"], one["folds_std"]]).all()  # fewer than three
    text = Evaluation(True, table(*found), pd.DataFrame(), Path("x")).to_text()
    assert "means over 2 folds x 3 seeds" in text
    assert text.count("5.0 (3)") == 2
    assert text.count("- (2)") == 2
    one_seed = Evaluation(True, table(row("pretrained", 0.4)), pd.DataFrame(), Path("x"))
    assert "±" not in one_seed.to_text()


def test_a_layer_on_an_untrained_encoder_and_its_shuffled_labels_have_new_weights() -> None:
    for mode, name, weights in (
        ("random", "shuffled labels", 3),
        ("scratch", "scratch", 3),
        ("linear", "shuffled labels", 1),
        ("finetune", "pretrained", 1),
    ):
        found = spreads(table(*(row(name, 0.4, seed=seed, mode=mode) for seed in (0, 1, 2))))
        assert (found["weights"], found["seeds"]) == (weights, 4 - weights)


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
        "pretrained - random: +10.0 points, without predictions to compare.",
        "pretrained - scratch: +1.0 points, without predictions to compare.",
        "pretrained - motion statistics: -5.0 points, without predictions to compare.",
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


def test_a_difference_has_an_interval_over_groups_of_the_same_videos() -> None:
    """Seeds add no videos; hits of other modes, labels and random segments do not count."""
    rows = table(*(row(name, 0.5, seed=s) for name in ("pretrained", "random") for s in (0, 1)))
    beside = table(row("scratch", 0.4, mode="scratch"))
    videos = [(f"g{n // 2}", f"v{n:02d}") for n in range(24)]

    def hits(encoder: str, right: range, mode: str = "linear", **changes: Any) -> pd.DataFrame:
        found = pd.DataFrame(videos, columns=["group", "video_id"])
        about = {"fold": 1, "labels_per_class": "all", "protocol": "uniform8", "seed": 0}
        hit = found.index.isin(right).astype(float)
        return found.assign(hit=hit, encoder=encoder, mode=mode, **(about | changes))

    every = [
        *(hits("pretrained", range(12), seed=seed) for seed in (0, 1)),
        *(hits("random", range(6, 12), seed=seed) for seed in (0, 1)),
        hits("scratch", range(0), "scratch"),
    ]
    lines = comparisons(rows, beside, pd.concat(every))
    found = difference(every[0], every[2])
    assert lines[1] == f"pretrained - random: {found}."
    assert "+25.0 points, 95 % interval [" in lines[1]
    assert "(12 groups)" in lines[1]
    assert "pretrained - scratch: +50.0 points, 95 % interval [" in lines[2]
    others = [
        hits("random", range(24), "random"),
        hits("random", range(24), labels_per_class="5"),
        hits("random", range(24), protocol="random8"),
    ]
    assert comparisons(rows, beside, pd.concat([*every, *others])) == lines


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
        "random - scratch: -20.0 points, without predictions to compare.",
    ]
