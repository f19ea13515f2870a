"""The baseline that sees no picture: ten statistics of a video's motion, from the store's tables, and a random forest."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from flowcpc.stores.flow_store import FlowStore

TREES = 100
STATISTICS = (
    "speed",
    "speed_spread",
    "speed_low",
    "speed_high",
    "mean_u",
    "mean_v",
    "spread_u",
    "spread_v",
    "drift",
    "one_way",
)


def motion_statistics(store: FlowStore, video_ids: Sequence[str]) -> pd.DataFrame:
    """Return STATISTICS of every video in `video_ids`, one row each in their order, float64.

    All are means and spreads over the flows of a video, so none knows in which order they come. `speed` is the mean over a frame of |flow|, px: its
    mean, spread (standard deviation) and its 10 and 90 % quantiles. `mean_u`, `mean_v`, `spread_u`, `spread_v` are those of the frames' mean vectors;
    `drift` is the length of their mean, and `one_way` that length as a share of their mean length: 1 when all point the same way.
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
    return (
        table.loc[list(video_ids), list(STATISTICS)]
        .astype(np.float64)
        .reset_index(names="video_id")
    )


def forest_shares(
    train: NDArray[np.float64],
    labels: NDArray[np.int64],
    test: NDArray[np.float64],
    num_classes: int,
) -> NDArray[np.float32]:
    """Return the shares (n, classes) of a random forest's votes for the rows of `test`; its draws are always the same."""
    forest = RandomForestClassifier(TREES, random_state=0).fit(train, labels)
    shares = np.zeros((len(test), num_classes), np.float32)
    shares[:, forest.classes_] = forest.predict_proba(test)
    return shares
