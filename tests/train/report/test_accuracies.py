from pathlib import Path

import pandas as pd
import pytest

from flowcpc.train.evaluation.modes import MOTION, PRETRAINED, RANDOM, SHUFFLED
from flowcpc.train.report.accuracies import Number, accuracies, best_linear, recalls
from flowcpc.train.report.runs import Run


def run_with(*rows: dict[str, object], name: str = "run") -> Run:
    """A folder of results alone."""
    common = {
        "labels_per_class": "all",
        "fold": 1,
        "seed": 0,
        "videos": 20,
        "classes": 4,
        "chance": 0.25,
    }
    results = pd.DataFrame(
        [common | {"mode": "linear", "protocol": "uniform8", "top1": 0.5} | row for row in rows]
    )
    return Run(name, Path(name), None, 0, {}, [], results)


def test_numbers_are_percent_over_seeds_and_modes_are_kept_apart() -> None:
    run = run_with(
        {"encoder": PRETRAINED, "top1": 0.5},
        {"encoder": PRETRAINED, "top1": 0.7, "seed": 1},
        {"encoder": PRETRAINED, "top1": 0.1, "protocol": "random8"},
        {"encoder": PRETRAINED, "top1": 0.9, "mode": "knn"},
        {"encoder": PRETRAINED, "top1": 0.3, "labels_per_class": "5"},
    )
    whole, few = accuracies([run], [None])
    assert (whole.title, few.title) == ("All labels", "5 labels per class")
    ours = {row.how: row for row in whole.rows if row.role == "ours"}
    linear, knn = ours["linear layer on the frozen encoder"], ours["nearest neighbours"]
    assert (str(linear.uniform), str(linear.random), linear.uniform.count) == (
        "60.0 ± 14.1",
        "10.0",
        2,
    )
    assert str(knn.uniform) == "90.0"
    assert whole.segments == "8 segments"
    assert [row.name for row in whole.rows if row.role == "absent"] == [
        SHUFFLED, MOTION, "untrained encoder", "from scratch",
    ]  # fmt: skip
    assert str(best_linear(run, PRETRAINED)) == "60.0 ± 14.1"
    assert best_linear(run, RANDOM) is None


def test_motion_statistics_count_once_though_every_mode_measures_them() -> None:
    rows = [
        {
            "encoder": MOTION,
            "protocol": "whole video",
            "mode": mode,
            "seed": seed,
            "top1": 0.5 + 0.1 * seed,
        }
        for mode in ("linear", "knn", "probe")
        for seed in (0, 1)
    ]
    run = run_with(*rows)
    expected = Number(55.0, pytest.approx(50**0.5), 2)
    assert best_linear(run, MOTION) == expected
    (table,) = accuracies([run, run], [None, None])
    assert [row.uniform for row in table.rows if row.name == MOTION] == [expected]
    assert table.segments == "all of"


def test_recall_with_few_labels_is_not_that_with_all() -> None:
    retrieved = [
        {
            "mode": "retrieval",
            "top1": None,
            "encoder": encoder,
            "labels_per_class": labels,
            "r1": share,
        }
        for labels, share in (("5", 0.2), ("all", 0.6), ("18", 0.4))
        for encoder in (SHUFFLED, PRETRAINED)
    ]
    found = recalls([run_with(*retrieved)])
    assert [(row.labels, row.encoder, str(row.values[0])) for row in found] == [
        ("all", "pretrained encoder", "60.0"), ("all", SHUFFLED, "60.0"), ("18", "pretrained encoder", "40.0"),
        ("18", SHUFFLED, "40.0"), ("5", "pretrained encoder", "20.0"), ("5", SHUFFLED, "20.0"),
    ]  # fmt: skip
    assert found[0].values[1:] == (None, None, None, None)
    assert recalls([run_with({"encoder": PRETRAINED})]) == []
