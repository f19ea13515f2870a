import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from flowcpc.train.evaluation.modes import MOTION, PRETRAINED, RANDOM, SHUFFLED
from flowcpc.train.report.accuracies import Number, accuracy_tables, best_linear, recall_table
from flowcpc.train.report.page import Bar, Row, Table
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
    return Run(name, Path(name), None, 0, {}, pd.DataFrame(), results)


def cells(table: Table, row: Row) -> dict[str, str]:
    """The texts of a row by the headings of their columns."""
    texts = [one.text if isinstance(one, Bar) else str(one) for one in row.cells]
    return dict(zip(table.columns, texts, strict=False))


def test_numbers_are_percent_over_seeds_and_modes_are_kept_apart() -> None:
    run = run_with(
        {"encoder": PRETRAINED, "top1": 0.5},
        {"encoder": PRETRAINED, "top1": 0.7, "seed": 1},
        {"encoder": PRETRAINED, "top1": 0.1, "protocol": "random8"},
        {"encoder": PRETRAINED, "top1": 0.9, "mode": "knn"},
        {"encoder": PRETRAINED, "top1": 0.3, "labels_per_class": "5"},
    )
    whole, few = accuracy_tables([run])
    assert (whole.name, few.name) == ("All labels", "5 labels per class")
    assert "20 test videos of 4 classes, 8 segments each" in whole.caption
    ours = [cells(whole, row) for row in whole.rows if row.style == "ours"]
    linear, knn = ours
    assert linear["Classifier"] == "linear layer on the frozen encoder"
    assert linear["Top-1, even segments"] == "60.0 ± 14.1"
    assert (linear["Random segments"], linear["n"], linear["Paper"]) == ("10.0", "2", "-")
    assert (knn["Classifier"], knn["Top-1, even segments"]) == ("nearest neighbours", "90.0")
    absent = {row.cells[0]: row.cells[1] for row in whole.rows if row.style == "absent"}
    assert list(absent) == [SHUFFLED, MOTION, "untrained encoder", "from scratch"]
    assert "--mode scratch" in str(absent["from scratch"])
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
    (table,) = accuracy_tables([run, dataclasses.replace(run, colour=1)])
    rows = [cells(table, row) for row in table.rows if row.cells[0] == MOTION]
    assert [row["Top-1, even segments"] for row in rows] == ["55.0 ± 7.1"]
    assert ", all of each, " in table.caption


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
    table = recall_table([run_with(*retrieved)])
    assert table is not None
    found = [cells(table, row) for row in table.rows]
    assert [(row["Labels"], row["Encoder"], row["R@1"]) for row in found] == [
        (labels, encoder, share)
        for labels, share in (("all", "60.0"), ("18", "40.0"), ("5", "20.0"))
        for encoder in ("pretrained encoder", SHUFFLED)
    ]
    assert [found[0][f"R@{k}"] for k in (5, 10, 20, 50)] == ["-"] * 4
    assert recall_table([run_with({"encoder": PRETRAINED})]) is None
