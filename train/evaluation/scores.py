"""Predictions -> accuracies, per class and in all (scikit-learn's metrics)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score


def score_predictions(
    predictions: pd.DataFrame, classes: Sequence[str], about: Mapping[str, Any]
) -> pd.DataFrame:
    """Return one row of accuracies per encoder and protocol, in the order of `predictions`.

    Parameters
    ----------
    predictions : DataFrame
        encoder, protocol, video_id, label, predicted, logits (one float per class).
    classes : sequence of str
        The label of each logit, sorted.
    about : mapping
        Columns to put in front, the same in every row.

    Returns
    -------
    DataFrame
        `about`, encoder, protocol, videos, classes, chance (1 / classes), top1, top5 and mean_class, the mean of the classes' own top-1, in 0..1.

    Raises
    ------
    ValueError
        When a video does not occur exactly once, or a logit is no finite number.
    """
    rows = []
    for encoder, protocol, found in _by_encoder(predictions):
        if found["video_id"].duplicated().any():
            raise ValueError(
                f"{encoder} {protocol} has predictions of a video twice; each test video counts once"
            )
        logits = np.stack(found["logits"].to_list())
        if not np.isfinite(logits).all():
            raise ValueError(
                f"{encoder} {protocol} has logits that are no finite numbers; take a lower learning rate"
            )
        present = sorted(set(found["label"]))
        labels = np.searchsorted(np.array(list(classes)), found["label"].to_numpy(str))
        rows.append(
            {
                **about,
                "encoder": encoder,
                "protocol": protocol,
                "videos": len(found),
                "classes": len(classes),
                "chance": 1 / len(classes),
                "top1": float(accuracy_score(found["label"], found["predicted"])),
                "top5": float((rank_of_label(logits, labels) < 5).mean()),
                "mean_class": float(
                    recall_score(
                        found["label"],
                        found["predicted"],
                        labels=present,
                        average="macro",
                        zero_division=0,
                    )
                ),
            }
        )
    return pd.DataFrame(rows)


def score_classes(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return one row per encoder, protocol and class that was tested: label, videos, top1, and `most_often`, what its videos are called most."""
    rows = []
    for encoder, protocol, found in _by_encoder(predictions):
        counts = confusion_matrix(found["label"], found["predicted"], labels=classes)
        for place, label in enumerate(classes):
            if total := int(counts[place].sum()):
                share = float(counts[place, place] / total)
                called = classes[int(counts[place].argmax())]
                rows.append((encoder, protocol, label, total, share, called))
    return pd.DataFrame(
        rows, columns=["encoder", "protocol", "label", "videos", "top1", "most_often"]
    )


def confusion(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return the confusion matrices in rows: encoder, protocol, label, predicted, videos (0 included)."""
    tables = []
    for encoder, protocol, found in _by_encoder(predictions):
        counts = confusion_matrix(found["label"], found["predicted"], labels=classes)
        table = pd.DataFrame(counts, index=pd.Index(classes, name="label"), columns=list(classes))
        flat = table.reset_index().melt("label", var_name="predicted", value_name="videos")
        tables.append(flat.assign(encoder=encoder, protocol=protocol))
    return pd.concat(tables, ignore_index=True)[
        ["encoder", "protocol", "label", "predicted", "videos"]
    ]


def rank_of_label(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many other classes score at least as high as the right one, int64 (n,), for logits (n, classes).

    Ties count against the prediction: scikit-learn's top-k breaks them by the order of the classes, and so would call right what five neighbours of
    one class say of four others.
    """
    right = np.take_along_axis(logits, labels[:, None], axis=1)
    return (~(logits < right)).sum(axis=1) - 1


def _by_encoder(predictions: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    for (encoder, protocol), found in predictions.groupby(["encoder", "protocol"], sort=False):
        yield str(encoder), str(protocol), found
