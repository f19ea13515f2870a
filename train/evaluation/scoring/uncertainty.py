"""How sure a difference between two encoders is: whole clusters of test videos are one draw.

Videos of a cluster (clips of one recording, or of one synthetic scene) are alike, so they are never
taken apart. The interval is the percentile bootstrap over clusters, widened for few clusters by the
t quantiles: the "expanded percentile" interval of Hesterberg (2015), What Teachers Should Know
About the Bootstrap, The American Statistician 69(4), section 5.3. The plain percentile interval of
20 clusters is too narrow. The p-value is that of a sign-flip permutation over clusters.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from flowcpc.train.settings.config import named_seed

DRAWS = 10_000  # of the bootstrap and of the permutation
FEWEST_CLUSTERS = 10  # for an interval
_OUTSIDE = 0.05  # of the draws
_CELLS = 1 << 22  # draws x clusters in memory at once
HIT_COLUMNS = ["encoder", "protocol", "fold", "seed", "video_id", "label", "predicted"]
Floats = NDArray[np.float64]


class Difference(NamedTuple):
    """The share of test videos that an encoder has right, minus that of another.

    `low`, `high` and `p` are NaN if there are fewer than FEWEST_CLUSTERS clusters.
    """

    mean: float
    low: float  # of the 95 % interval
    high: float
    p: float  # how often no difference would look as large, in either direction
    videos: int
    clusters: int

    def __str__(self) -> str:
        text = f"{100 * self.mean:+.1f} points"
        if math.isnan(self.p):
            rule = f"too few for an interval, which needs {FEWEST_CLUSTERS}"
            return f"{text} ({self.videos} test videos of {self.clusters} groups: {rule})"
        interval = f"95 % interval [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
        return f"{text}, {interval}, p = {self.p:.2g} ({self.clusters} groups)"


def hits_of(predictions: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """Return whether each test video was predicted right, a row per encoder, protocol and unit.

    `predictions` have HIT_COLUMNS, `groups` the group of every video_id;
    a video without group is a group of its own. Columns: encoder, protocol, fold, seed, video_id,
    group, and hit: a share in 0..1 where the protocol draws segments several times. In retrieval, a
    hit is a nearest neighbour of the same class.
    """
    right = predictions["predicted"] == predictions["label"]
    keys = HIT_COLUMNS[:5]
    hits = right.astype(float).groupby([predictions[name] for name in keys], sort=False).mean()
    table = hits.rename("hit").reset_index()
    return table.assign(group=table["video_id"].map(groups).fillna(table["video_id"]))


def difference(hits: pd.DataFrame, others: pd.DataFrame) -> Difference | None:
    """Return how the hits of an encoder differ from those of another; None if they share none.

    Both are rows of `hits_of`. They are compared within the same video, fold and seed, and averaged
    over folds and seeds for each video, because only another video is another draw.
    """
    keys = ["group", "video_id", "fold", "seed"]
    first, second = (side.groupby(keys)["hit"].mean() for side in (hits, others))
    per_unit = (first - second).dropna()
    if per_unit.empty:
        return None
    by_video = per_unit.groupby(level=["group", "video_id"]).mean()
    by_group = by_video.groupby(level="group").agg(["sum", "size"])
    sums, sizes = by_group["sum"].to_numpy(float)[:, None], by_group["size"].to_numpy(float)
    low = high = p = math.nan
    if len(sizes) >= FEWEST_CLUSTERS:
        low, high = bootstrap_interval(sums, sizes)[:, 0].tolist()
        p = float(permutation_p(sums)[0])
    mean = float(sums.sum() / sizes.sum())
    return Difference(mean, low, high, p, int(sizes.sum()), len(sizes))


def bootstrap_interval(sums: Floats, sizes: Floats) -> Floats:
    """Return the ends of the 95 % intervals of C mean differences, (2, C).

    `sums` (K, C) are the differences summed over the videos of each of K clusters, `sizes` (K,) the
    numbers of videos. A draw has K whole clusters, with replacement; its mean is over its videos.
    """
    clusters = len(sizes)
    generator = np.random.default_rng(named_seed(0, "bootstrap"))
    means = []
    for count in _chunks(clusters):
        drawn = generator.integers(clusters, size=(count, clusters))
        drawn += clusters * np.arange(count)[:, None]  # so that one count serves all draws
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)
        means.append(times @ sums / (times @ sizes)[:, None])
    # As wide as a t interval, which the plain quantiles are not.
    t = stdtrit(clusters - 1, _OUTSIDE / 2) * math.sqrt(clusters / (clusters - 1))
    outside = ndtr(t)
    return np.quantile(np.concatenate(means), [outside, 1 - outside], axis=0)


def permutation_p(sums: Floats) -> Floats:
    """Return the two-sided p-values of C differences, (C,), by flipping signs of whole clusters.

    Without a difference, the two encoders could as well change places in each cluster; `sums`
    (K, C) are as in `bootstrap_interval`. The smallest possible value is 1 / (DRAWS + 1).
    """
    generator = np.random.default_rng(named_seed(0, "permutation"))
    found = np.abs(sums.sum(axis=0)) - 1e-9  # a sum of the same shares is rounded differently
    as_large = np.ones(sums.shape[1])
    for count in _chunks(len(sums)):
        signs = 2.0 * generator.integers(2, size=(count, len(sums)), dtype=np.int8) - 1
        as_large += (np.abs(signs @ sums) >= found).sum(axis=0)
    return as_large / (DRAWS + 1)


def _chunks(clusters: int) -> Iterator[int]:
    """Yield numbers of draws whose sum is DRAWS, so that memory does not grow with the clusters."""
    most = max(1, _CELLS // clusters)
    for first in range(0, DRAWS, most):
        yield min(most, DRAWS - first)
