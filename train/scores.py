"""Predictions -> accuracies."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

PROTOCOLS = ("random8", "uniform8")  # eight seeded random, and eight evenly spread segments of every test video


def score_predictions(predictions: pd.DataFrame, classes: Sequence[str], about: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row of accuracies per encoder and protocol, in the order of `predictions`.

    Parameters
    ----------
    predictions : DataFrame
        encoder, protocol, video_id, label, logits (one float per class).
    classes : sequence of str
        The label of each logit.
    about : mapping
        Columns to put in front, the same in every row.

    Returns
    -------
    DataFrame
        `about`, encoder, protocol, videos, classes, chance (1 / classes), top1, top5 and mean_class, the mean of the classes' own top-1, in 0..1.

    Raises
    ------
    ValueError
        When a video does not occur exactly once.
    """
    number = {label: place for place, label in enumerate(classes)}
    rows = []
    for (encoder, protocol), found in predictions.groupby(["encoder", "protocol"], sort=False):
        if found["video_id"].duplicated().any():
            raise ValueError(f"{encoder} {protocol} has predictions of a video twice; each test video counts once")
        labels = np.array([number[label] for label in found["label"]], np.int64)
        ranks = rank_of_label(np.stack(found["logits"].to_list()), labels)
        hit = pd.Series(ranks == 0)
        rows.append(
            {
                **about,
                "encoder": encoder,
                "protocol": protocol,
                "videos": len(found),
                "classes": len(classes),
                "chance": 1 / len(classes),
                "top1": float(hit.mean()),
                "top5": float((ranks < 5).mean()),
                "mean_class": float(hit.groupby(labels).mean().mean()),
            }
        )
    return pd.DataFrame(rows)


def rank_of_label(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many other classes score at least as high as the right one, int64 (n,), for logits (n, classes).

    Ties count against the prediction, so that a classifier that says the same of all classes is never right.
    """
    right = np.take_along_axis(logits, labels[:, None], axis=1)
    return (~(logits < right)).sum(axis=1) - 1  # a score that is no number counts against it too
