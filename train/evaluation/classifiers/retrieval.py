"""Nearest neighbours among features: votes of the k nearest, and which is the first of the same class."""

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

RANKS = (1, 5, 10, 20, 50)  # the k of recall at k: of how many nearest one has to be right

Floats = NDArray[np.float32] | NDArray[np.float64]


def nearest(gallery: Floats, queries: Floats, count: int) -> NDArray[np.int64]:
    """Return the rows of `gallery` (G, D) by growing cosine distance to every query (Q, D); int64 (Q, min(count, G))."""
    search = NearestNeighbors(
        n_neighbors=min(count, len(gallery)), metric="cosine", algorithm="brute"
    ).fit(gallery)
    found: NDArray[np.int64] = search.kneighbors(queries, return_distance=False)
    return found


def vote(
    neighbours: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int
) -> NDArray[np.float32]:
    """Return the share of the neighbours (Q, k) that are of each class, float32 (Q, classes), by `labels` (G,) of the gallery.

    >>> vote(np.array([[0, 1, 2]]), np.array([1, 0, 1]), 3).round(2).tolist()
    [[0.33000001311302185, 0.6700000166893005, 0.0]]
    """
    shares = np.zeros((len(neighbours), num_classes), np.float32)
    for column in labels[neighbours].T:
        shares[np.arange(len(neighbours)), column] += 1
    return shares / np.float32(neighbours.shape[1])


def rank_of_first(
    neighbours: NDArray[np.int64], labels: NDArray[np.int64], query_labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return which neighbour (Q, n) is the first of the query's class, counted from 1, and 0 where none is; int64 (Q,).

    Recall at k is the share of queries for which it lies in 1..k.

    >>> rank_of_first(np.array([[0, 1], [1, 0], [1, 0]]), np.array([7, 8]), np.array([7, 7, 9])).tolist()
    [1, 2, 0]
    """
    right = labels[neighbours] == query_labels[:, None]
    return np.where(right.any(axis=1), right.argmax(axis=1) + 1, 0)
