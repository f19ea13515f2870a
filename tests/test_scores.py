import numpy as np
import pandas as pd
import pytest

from train.scores import rank_of_label, score_predictions


def rows(labels: str, logits: list[list[float]], **about: str) -> pd.DataFrame:
    names = [f"v{n}" for n in range(len(labels))]
    return pd.DataFrame({"video_id": names, "label": list(labels), "logits": logits, **about})


def test_accuracies_by_hand() -> None:
    logits = [[3, 2, 1], [1, 2, 3], [0, 5, 1], [2, 1, 0]]
    found = rows("aaba", logits, encoder="e", protocol="p")
    (row,) = score_predictions(found, "abc", {"run": "r"}).to_dict("records")
    assert (row["run"], row["encoder"], row["protocol"], row["videos"], row["classes"]) == ("r", "e", "p", 4, 3)
    assert (row["top1"], row["top5"], row["chance"]) == (0.75, 1.0, 1 / 3)
    assert row["mean_class"] == pytest.approx((2 / 3 + 1) / 2)  # class c has no video


def test_top5_of_seven_classes() -> None:
    logits = [[6, 5, 4, 3, 2, 1, 0]] * 7
    (row,) = score_predictions(rows("abcdefg", logits, encoder="e", protocol="p"), "abcdefg", {}).to_dict("records")
    assert (row["top1"], row["top5"], row["mean_class"]) == (1 / 7, 5 / 7, 1 / 7)


def test_encoders_and_protocols_keep_their_order() -> None:
    parts = [rows("ab", [[1, 0], [1, 0]], encoder=e, protocol=p) for e in ("z", "a") for p in ("q", "b")]
    table = score_predictions(pd.concat(parts), "ab", {})
    assert table[["encoder", "protocol"]].to_numpy().tolist() == [["z", "q"], ["z", "b"], ["a", "q"], ["a", "b"]]


def test_a_video_counts_once() -> None:
    found = rows("aa", [[1, 0], [1, 0]], encoder="e", protocol="p").assign(video_id="same")
    with pytest.raises(ValueError, match="predictions of a video twice"):
        score_predictions(found, "ab", {})


def test_ties_and_missing_numbers_count_against_the_prediction() -> None:
    logits = np.array([[1, 1, 1], [np.nan, 0, 0], [0, 1, 0], [2, 1, 2]], np.float32)
    assert rank_of_label(logits, np.array([0, 0, 1, 2])).tolist() == [2, 2, 0, 1]
