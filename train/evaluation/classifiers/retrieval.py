"""Nearest neighbours among features: votes of the k nearest, and the first of the same class."""

import numpy as np
from numpy.typing import NDArray

RANKS = (1, 5, 10, 20, 50)  # the k of recall at k

Floats = NDArray[np.float32] | NDArray[np.float64]
Integers = NDArray[np.int64]


def nearest(gallery: Floats, queries: Floats, count: int) -> Integers:
    """Return the `gallery` rows (G, D) nearest to queries (Q, D), int64 (Q, min(count, G)).

    The nearest by cosine distance is first.
    """
    from sklearn.neighbors import NearestNeighbors  # takes a second to load

    count = min(count, len(gallery))
    search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute").fit(gallery)
    rows: Integers = search.kneighbors(queries, return_distance=False)
    return rows


def vote(neighbours: Integers, labels: Integers, num_classes: int) -> NDArray[np.float32]:
    """Return each class's share of neighbours (Q, k) with `labels` (G,), float32 (Q, classes)."""
    shares = np.zeros((len(neighbours), num_classes), np.float32)
    for column in labels[neighbours].T:
        shares[np.arange(len(neighbours)), column] += 1
    return shares / np.float32(neighbours.shape[1])


def rank_of_first(neighbours: Integers, labels: Integers, query_labels: Integers) -> Integers:
    """Return which neighbour (Q, n) is the first of the query's class, int64 (Q,).

    Ranks count from 1; 0 means none. Recall at k is the share of queries with a rank in 1..k.

    >>> labels, query_labels = np.array([7, 8]), np.array([7, 7, 9])
    >>> rank_of_first(np.array([[0, 1], [1, 0], [1, 0]]), labels, query_labels).tolist()
    [1, 2, 0]
    """
    right = labels[neighbours] == query_labels[:, None]
    return np.where(right.any(axis=1), right.argmax(axis=1) + 1, 0)
