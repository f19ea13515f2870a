"""The shots of a list of videos: runs of flows without a cut or a gap, which hold segments."""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class Shots(NamedTuple):
    """Runs of flows [start, stop) of V videos; every video has one at least. Arrays are int64."""

    offsets: Integers  # (V + 1,); the shots of video v are rows [offsets[v], offsets[v + 1])
    starts: Integers  # (S,)
    stops: Integers  # (S,)
    longest: Integers  # (V,), flows of the longest shot of every video


def pack_shots(shots: Sequence[Sequence[tuple[int, int]]]) -> Shots:
    """Return Shots of videos that are given as lists of (start, stop).

    A video without a shot, whose every flow spans a cut or a gap, counts as its first flow alone.

    >>> pack_shots([[(0, 5), (6, 13)], []]).longest.tolist()
    [7, 1]
    """
    filled = [list(found) or [(0, 1)] for found in shots]
    spans = np.array([span for found in filled for span in found], np.int64).reshape(-1, 2)
    offsets = np.cumsum([0, *map(len, filled)])
    starts, stops = np.ascontiguousarray(spans.T)
    lengths = stops - starts
    longest = np.maximum.reduceat(lengths, offsets[:-1]) if len(filled) else lengths
    return Shots(offsets, starts, stops, longest)


def shots_of(table: pd.DataFrame, video_ids: Sequence[str]) -> Shots:
    """Return the shots of some videos, in this order, from a store's table of them."""
    found: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
    for name, start, stop in table[["video_id", "start", "stop"]].itertuples(index=False):
        found[name].append((start, stop))
    return pack_shots([found[video_id] for video_id in video_ids])
