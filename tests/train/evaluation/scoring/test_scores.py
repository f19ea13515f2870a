import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from flowcpc.train.evaluation.scoring.scores import (
    confusion,
    rank_of_label,
    score_classes,
    score_predictions,
)


def rows(labels: str, logits: list[list[float]], **about: str) -> pd.DataFrame:
    names = [f"v{n}" for n in range(len(labels))]
    called = ["abcdefghij"[int(np.argmax(scores))] for scores in logits]
    return pd.DataFrame(
        {"video_id": names, "label": list(labels), "predicted": called, "logits": logits, **about}
    )


def test_accuracies_by_hand() -> None:
    logits = [[3, 2, 1], [1, 2, 3], [0, 5, 1], [2, 1, 0]]
    found = rows("aaba", logits, encoder="e", protocol="p")
    (row,) = score_predictions(found, "abc", {"run": "r"}).to_dict("records")
    assert (row["run"], row["encoder"], row["protocol"], row["videos"], row["classes"]) == (
        "r",
        "e",
        "p",
        4,
        3,
    )
    assert (row["top1"], row["top5"], row["chance"]) == (0.75, 1.0, 1 / 3)
    assert row["mean_class"] == pytest.approx((2 / 3 + 1) / 2)  # class c has no video


def test_top5_of_seven_classes() -> None:
    logits = [[6, 5, 4, 3, 2, 1, 0]] * 7
    (row,) = score_predictions(
        rows("abcdefg", logits, encoder="e", protocol="p"), "abcdefg", {}
    ).to_dict("records")
    assert (row["top1"], row["top5"], row["mean_class"]) == (1 / 7, 5 / 7, 1 / 7)


def test_accuracies_equal_scikit_learn_s() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 200)
    logits = rng.normal(size=(200, 10)) + 2 * np.eye(10)[labels]
    found = rows(
        "".join("abcdefghij"[n] for n in labels), logits.tolist(), encoder="e", protocol="p"
    )
    (row,) = score_predictions(found, "abcdefghij", {}).to_dict("records")
    assert row["top1"] == top_k_accuracy_score(labels, logits, k=1)
    assert row["top5"] == top_k_accuracy_score(labels, logits, k=5)
    assert row["mean_class"] == pytest.approx(
        balanced_accuracy_score(labels, logits.argmax(axis=1))
    )
    assert 0.2 < row["top1"] < row["top5"] < 1


def test_classes_and_their_confusion_by_hand() -> None:
    found = rows("aab", [[1, 0, 0], [0, 0, 1], [0, 0, 1]], encoder="e", protocol="p")
    assert score_classes(found, list("abc")).to_numpy().tolist() == [
        ["e", "p", "a", 2, 0.5, "a"],
        ["e", "p", "b", 1, 0.0, "c"],
    ]
    table = confusion(found, list("abc")).pivot_table(
        index="label", columns="predicted", values="videos", aggfunc="sum"
    )
    assert table.to_numpy().tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert table.index.tolist() == table.columns.tolist() == list("abc")


def test_encoders_and_protocols_keep_their_order() -> None:
    parts = [
        rows("ab", [[1, 0], [1, 0]], encoder=e, protocol=p) for e in ("z", "a") for p in ("q", "b")
    ]
    table = score_predictions(pd.concat(parts), "ab", {})
    assert table[["encoder", "protocol"]].to_numpy().tolist() == [
        ["z", "q"],
        ["z", "b"],
        ["a", "q"],
        ["a", "b"],
    ]


def test_a_video_counts_once() -> None:
    found = rows("aa", [[1, 0], [1, 0]], encoder="e", protocol="p").assign(video_id="same")
    with pytest.raises(ValueError, match="several predictions of one video"):
        score_predictions(found, "ab", {})


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="e p has logits that are not finite"):
        score_predictions(rows("ab", [[1, 0], [np.nan, 0]], encoder="e", protocol="p"), "ab", {})


def test_ties_count_against_the_prediction() -> None:
    logits = np.array([[1, 1, 1], [0, 1, 0], [2, 1, 2]], np.float32)
    assert rank_of_label(logits, np.array([0, 1, 2])).tolist() == [2, 0, 1]
