"""The shots of a list of videos: runs of flows without a cut or a gap, which hold segments."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Shots:
    """Runs of flows [start, stop) of V videos; every video has one at least.

    Attributes
    ----------
    offsets : int64 (V + 1,)
        The shots of video v are rows [offsets[v], offsets[v + 1]).
    starts, stops : int64 (S,)
    longest : int64 (V,)
        Flows of the longest shot of every video.
    """

    offsets: Integers
    starts: Integers
    stops: Integers
    longest: Integers


def pack_shots(shots: Sequence[Sequence[tuple[int, int]]]) -> Shots:
    """Return Shots of videos that are given as lists of (start, stop).

    A video without a shot, whose every flow spans a cut or a gap, counts as its first flow alone.

    >>> pack_shots([[(0, 5), (6, 13)], []]).longest.tolist()
    [7, 1]
    """
    filled = [list(found) or [(0, 1)] for found in shots]
    spans = np.array([span for found in filled for span in found], np.int64).reshape(-1, 2)
    offsets = np.cumsum([0, *map(len, filled)])
    lengths = spans[:, 1] - spans[:, 0]
    longest = np.maximum.reduceat(lengths, offsets[:-1]) if len(filled) else lengths
    return Shots(
        offsets, np.ascontiguousarray(spans[:, 0]), np.ascontiguousarray(spans[:, 1]), longest
    )


def one_shot_each(flows: Sequence[int]) -> Shots:
    """Return Shots of videos that have these numbers of flows and no cut."""
    return pack_shots([[(0, count)] for count in flows])


def shots_of(table: pd.DataFrame, video_ids: Sequence[str]) -> Shots:
    """Return the shots of some videos, in this order, from a store's table of them."""
    found: dict[str, list[tuple[int, int]]] = {}
    for video_id, *span in zip(
        table["video_id"], table["start"].tolist(), table["stop"].tolist(), strict=True
    ):
        found.setdefault(video_id, []).append((span[0], span[1]))
    return pack_shots([found.get(video_id, []) for video_id in video_ids])
