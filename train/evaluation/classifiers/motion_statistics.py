"""The baseline that sees no frames: ten motion statistics of a video, and a random forest."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.evaluation.classifiers.probe import class_shares

TREES = 100
Statistics = NDArray[np.float64]


def motion_statistics(store: FlowStore, video_ids: Sequence[str]) -> pd.DataFrame:
    """Return ten statistics of the videos `video_ids`, float64, with the ids as index.

    All are statistics over the flows of a video, so none depends on the order of the flows. `speed`
    is the mean of |flow| over a frame, px: its mean, standard deviation (spread) and 10 and 90 %
    quantiles (low, high). `mean_u`, `mean_v`, `spread_u`, `spread_v` are those of the frames' mean
    vectors. `drift` is the length of their mean. `one_way` is `drift` relative to their mean
    length: 1 if all point in the same direction.
    """
    frames = store.frames(["video_id", "mean_u", "mean_v", "magnitude"])
    frames = frames[frames["video_id"].isin(video_ids)]
    frames = frames.assign(length=np.hypot(frames["mean_u"], frames["mean_v"]))
    by_video = frames.groupby("video_id", sort=False)
    speed, u, v = by_video["magnitude"], by_video["mean_u"], by_video["mean_v"]
    columns = {
        "speed": speed.mean(),
        "speed_spread": speed.std(ddof=0),
        "speed_low": speed.quantile(0.1),
        "speed_high": speed.quantile(0.9),
        "mean_u": u.mean(),
        "mean_v": v.mean(),
        "spread_u": u.std(ddof=0),
        "spread_v": v.std(ddof=0),
        "drift": np.hypot(u.mean(), v.mean()),
    }
    table = pd.DataFrame(columns)
    table["one_way"] = table["drift"] / by_video["length"].mean().clip(lower=1e-9)
    return table.loc[list(video_ids)].astype(np.float64)


def forest_shares(
    train: Statistics, labels: NDArray[np.int64], test: Statistics, num_classes: int
) -> NDArray[np.float32]:
    """Return the shares (n, classes) of votes of a random forest for `test`; its seed is fixed."""
    forest = RandomForestClassifier(TREES, random_state=0).fit(train, labels)
    return class_shares(forest, test, num_classes)
