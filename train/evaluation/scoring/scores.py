"""Predictions -> accuracies, per class and overall, by scikit-learn's metrics."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

from flowcpc.train.evaluation.classifiers.retrieval import RANKS


def score_predictions(
    predictions: pd.DataFrame, classes: Sequence[str], about: Mapping[str, Any]
) -> pd.DataFrame:
    """Return one row of accuracies per encoder and protocol, in the order of `predictions`.

    A row has `about`, encoder, protocol, videos, classes, chance (1 / classes), and shares in 0..1:
    top1, top5 and mean_class (the mean of the classes' own top-1), or the recalls r1 ... r50.

    `predictions` have encoder, protocol, video_id, label, predicted, and logits (one float for each
    of the sorted `classes`) or first_right (the rank of the first neighbour of the same class, 0
    for none). Raises ValueError unless every video occurs once and every logit is finite.
    """
    rows = []
    for encoder, protocol, mine in _by_encoder(predictions):
        if mine["video_id"].duplicated().any():
            raise ValueError(f"{encoder} {protocol} has several predictions of one video")
        row = {**about, "encoder": encoder, "protocol": protocol, "videos": len(mine)}
        row |= {"classes": len(classes), "chance": 1 / len(classes)}
        if "first_right" in mine:
            first = mine["first_right"]
            rows.append(row | {f"r{k}": float(first.between(1, k).mean()) for k in RANKS})
            continue
        logits = np.stack(mine["logits"].to_list())
        if not np.isfinite(logits).all():
            raise ValueError(
                f"{encoder} {protocol} has logits that are not finite; use a lower learning rate"
            )
        labels, predicted = mine["label"], mine["predicted"]
        wanted = np.searchsorted(np.array(list(classes)), labels.to_numpy(str))
        ranks = rank_of_label(logits, wanted)
        tested = sorted(set(labels))
        recall = recall_score(labels, predicted, labels=tested, average="macro", zero_division=0)
        row["top1"] = float(accuracy_score(labels, predicted))
        rows.append(row | {"top5": float((ranks < 5).mean()), "mean_class": float(recall)})
    return pd.DataFrame(rows)


def score_classes(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return one row per encoder, protocol and tested class: label, videos, top1, most_often.

    `most_often` is the class that is predicted most for its videos.
    """
    rows = []
    columns = ["encoder", "protocol", "label", "videos", "top1", "most_often"]
    for encoder, protocol, mine in _by_encoder(predictions):
        counts = confusion_matrix(mine["label"], mine["predicted"], labels=classes)
        for number, label in enumerate(classes):
            if videos := int(counts[number].sum()):
                top1 = float(counts[number, number] / videos)
                most_often = classes[int(counts[number].argmax())]
                rows.append((encoder, protocol, label, videos, top1, most_often))
    return pd.DataFrame(rows, columns=columns)


def confusion(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return the confusion matrices as rows: encoder, protocol, label, predicted, videos."""
    tables = []
    for encoder, protocol, mine in _by_encoder(predictions):
        counts = confusion_matrix(mine["label"], mine["predicted"], labels=classes)
        table = pd.DataFrame(counts, index=pd.Index(classes, name="label"), columns=list(classes))
        flat = table.reset_index().melt("label", var_name="predicted", value_name="videos")
        tables.append(flat.assign(encoder=encoder, protocol=protocol))
    columns = ["encoder", "protocol", "label", "predicted", "videos"]
    return pd.concat(tables, ignore_index=True)[columns]


def rank_of_label(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many other classes score at least as high as the right one, int64 (n,).

    `logits` are (n, classes). Ties count against the prediction: scikit-learn's top-k breaks them
    by the order of the classes, which would count a tie of many classes as right.
    """
    right = np.take_along_axis(logits, labels[:, None], axis=1)
    return (~(logits < right)).sum(axis=1) - 1


def _by_encoder(predictions: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    for (encoder, protocol), rows in predictions.groupby(["encoder", "protocol"], sort=False):
        yield str(encoder), str(protocol), rows
