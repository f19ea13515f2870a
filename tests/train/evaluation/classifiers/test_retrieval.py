import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from flowcpc.train.evaluation.classifiers.retrieval import nearest, rank_of_first, vote

RNG = np.random.default_rng(0)
GALLERY, QUERIES = (
    RNG.normal(size=(60, 7)).astype(np.float32),
    RNG.normal(size=(25, 7)).astype(np.float32),
)
LABELS, QUERY_LABELS = RNG.integers(0, 4, 60), RNG.integers(0, 4, 25)


def naive_nearest(query: np.ndarray) -> list[int]:
    cosines = [float(row @ query / np.linalg.norm(row) / np.linalg.norm(query)) for row in GALLERY]
    return sorted(range(len(GALLERY)), key=lambda n: -cosines[n])


def test_neighbours_are_those_of_the_largest_cosine() -> None:
    found = nearest(GALLERY, QUERIES, 50)
    assert found.tolist() == [naive_nearest(query)[:50] for query in QUERIES]
    assert nearest(GALLERY, QUERIES, 500).shape == (25, 60)


@pytest.mark.parametrize("k", [1, 3, 5, 20])
def test_votes_equal_scikit_learn_s(k: int) -> None:
    shares = vote(nearest(GALLERY, QUERIES, k), LABELS, 4)
    theirs = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(GALLERY, LABELS)
    np.testing.assert_allclose(shares, theirs.predict_proba(QUERIES), atol=1e-6)
    assert shares.argmax(axis=1).tolist() == theirs.predict(QUERIES).tolist()


@pytest.mark.parametrize("k", [1, 5, 10, 20, 50])
def test_recall_at_k_by_obvious_loops(k: int) -> None:
    expected = np.mean(
        [
            any(LABELS[n] == label for n in naive_nearest(query)[:k])
            for query, label in zip(QUERIES, QUERY_LABELS, strict=True)
        ]
    )
    first = rank_of_first(nearest(GALLERY, QUERIES, 50), LABELS, QUERY_LABELS)
    assert np.mean((first >= 1) & (first <= k)) == expected
