"""Intervals cover, p-values are uniform, and both are those of plain loops over clusters."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from flowcpc.train.evaluation.scoring import uncertainty
from flowcpc.train.evaluation.scoring.uncertainty import (
    DRAWS,
    bootstrap_interval,
    difference,
    hits_of,
    permutation_p,
)

EVALUATIONS, CLUSTERS = 1000, 20


def simulated(
    shares: tuple[float, float], concentration: float, sizes: NDArray[np.int64], seed: int
) -> NDArray[np.float64]:
    """Differences of two encoders summed over clusters, (K, C), for C simulated evaluations.

    In each cluster an encoder has its own share of right videos, drawn from a beta distribution:
    the smaller its concentration, the more alike the videos of a cluster.
    """
    rng = np.random.default_rng(seed)
    shape = (len(sizes), EVALUATIONS)
    right = []
    for share in shares:
        alike = rng.beta(share * concentration, (1 - share) * concentration, shape)
        right.append(rng.binomial(np.broadcast_to(sizes[:, None], shape), alike))
    return (right[0] - right[1]).astype(float)


@pytest.mark.parametrize(
    ("shares", "concentration", "sizes"),
    [
        ((0.6, 0.4), 3.0, np.full(CLUSTERS, 13)),  # synthetic scenes: one clip of each class
        ((0.7, 0.65), 1.0, np.full(CLUSTERS, 4)),  # clips of a group are nearly the same
        ((0.55, 0.55), 10.0, np.tile([2, 4, 5, 7], CLUSTERS // 4)),  # groups of UCF-101
    ],
)
def test_the_interval_covers_a_known_difference(
    shares: tuple[float, float], concentration: float, sizes: NDArray[np.int64]
) -> None:
    sums = simulated(shares, concentration, sizes, seed=1)
    low, high = bootstrap_interval(sums, sizes.astype(float))
    known = shares[0] - shares[1]
    assert 0.93 <= np.mean((low <= known) & (known <= high)) <= 0.97


def test_without_a_difference_p_is_uniform() -> None:
    """Differences averaged over many seeds have no ties, so that p can be uniform at all."""
    rng = np.random.default_rng(2)
    spread = rng.gamma(2.0, size=(CLUSTERS, 1))  # clusters of different sizes
    found = permutation_p(spread * rng.standard_t(5, size=(CLUSTERS, EVALUATIONS)))
    assert stats.kstest(found, "uniform").pvalue > 0.05
    tied = permutation_p(simulated((0.5, 0.5), 3.0, np.full(CLUSTERS, 4), seed=3))
    for level in (0.01, 0.05, 0.2):  # ties only make it careful
        assert np.mean(tied <= level) <= level + 3 * np.sqrt(level / EVALUATIONS)
    different = permutation_p(simulated((0.7, 0.3), 3.0, np.full(CLUSTERS, 4), seed=4))
    assert np.mean(different < 0.05) > 0.8


def test_p_is_that_of_all_sign_flips() -> None:
    """With ten clusters, all 1,024 ways to change the signs can be counted."""
    sums = np.array([3.0, 1, 0, 2, -1, 2, 1, 0, 4, -2])[:, None]
    flips = [np.dot(signs, sums[:, 0]) for signs in itertools.product((-1, 1), repeat=10)]
    exact = np.mean(np.abs(flips) >= abs(sums.sum()))
    (found,) = permutation_p(sums)
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact / DRAWS))


def test_the_interval_is_that_of_a_loop_over_draws_of_clusters() -> None:
    rng = np.random.default_rng(5)
    sums, sizes = rng.normal(1, 4, (12, 1)), rng.integers(1, 9, 12).astype(float)
    means = []
    for _ in range(DRAWS):
        drawn = rng.integers(12, size=12)
        means.append(sums[drawn].sum() / sizes[drawn].sum())
    outside = stats.norm.cdf(stats.t.ppf(0.025, 11) * np.sqrt(12 / 11))
    expected = np.quantile(means, [outside, 1 - outside])
    found = bootstrap_interval(sums, sizes)[:, 0]
    np.testing.assert_allclose(found, expected, atol=0.05 * np.ptp(expected))


@given(st.integers(10, 40), st.integers(1, 3))
def test_swapping_encoders_mirrors_and_chunks_change_nothing(clusters: int, columns: int) -> None:
    rng = np.random.default_rng(clusters)
    sums, sizes = rng.normal(size=(clusters, columns)), rng.integers(1, 5, clusters).astype(float)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uncertainty, "DRAWS", 300)
        interval, p = bootstrap_interval(sums, sizes), permutation_p(sums)
        np.testing.assert_allclose(bootstrap_interval(-sums, sizes), -interval[::-1], atol=1e-12)
        np.testing.assert_array_equal(permutation_p(-sums), p)
        assert ((interval[0] <= interval[1]) & (p > 0) & (p <= 1)).all()
        patch.setattr(uncertainty, "_CELLS", 7 * clusters)
        np.testing.assert_allclose(bootstrap_interval(sums, sizes), interval)


def hits(right: dict[str, list[int]], *, seed: int = 0, size: int = 2) -> pd.DataFrame:
    """Hits of an encoder per group, `size` videos each; 1 is right."""
    rows = [
        (group, f"{group}-{number}", 1, seed, float(hit))
        for group, several in right.items()
        for number, hit in enumerate(several[:size])
    ]
    return pd.DataFrame(rows, columns=["group", "video_id", "fold", "seed", "hit"])


def test_videos_are_paired_and_seeds_averaged() -> None:
    right = {f"g{n}": [1, int(n % 4 > 0)] for n in range(12)}
    wrong = {f"g{n}": [0, int(n % 3 > 0)] for n in range(12)}
    one = difference(hits(right), hits(wrong))
    assert one is not None
    assert (one.videos, one.clusters) == (24, 12)
    assert one.mean == pytest.approx((12 + 9 - 8) / 24)
    assert one.low < one.mean < one.high
    assert one.p < 0.01
    # Another seed tests the same videos, so nothing but the means of the videos changes.
    both = [pd.concat([hits(table), hits(table, seed=1)]) for table in (right, wrong)]
    assert difference(*both) == one
    assert difference(both[0], hits(wrong)) == one
    assert difference(hits(right, seed=2), hits(wrong)) is None
    zero = difference(hits(right), hits(right))
    assert zero is not None
    assert (zero.low, zero.high, zero.p) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(("groups", "size"), [(9, 30), (1, 1)])
def test_few_clusters_have_no_interval_and_the_text_says_why(groups: int, size: int) -> None:
    right = {f"g{n}": [1] * size for n in range(groups)}
    wrong = {name: [0] * size for name in right}
    found = difference(hits(right, size=size), hits(wrong, size=size))
    assert found is not None
    assert found.mean == 1.0
    assert np.isnan([found.low, found.high, found.p]).all()
    for part in ("+100.0 points", f"{groups * size} test videos of {groups} groups", "needs 10"):
        assert part in str(found)
    assert "interval [" not in str(found)


def test_hits_are_one_per_video_and_averaged_over_draws() -> None:
    rows = [
        ("v1", "A", "A", "pretrained", "random8"),
        ("v1", "A", "B", "pretrained", "random8"),
        ("v1", "A", "A", "pretrained", "uniform8"),
        ("v2", "B", "A", "pretrained", "uniform8"),
    ]
    columns = ["video_id", "label", "predicted", "encoder", "protocol"]
    predictions = pd.DataFrame(rows, columns=columns).assign(fold=1, seed=0)
    found = hits_of(predictions, pd.Series({"v1": "g1", "v2": None}))
    assert found[["protocol", "video_id", "hit", "group"]].to_numpy().tolist() == [
        ["random8", "v1", 0.5, "g1"],
        ["uniform8", "v1", 1.0, "g1"],
        ["uniform8", "v2", 0.0, "v2"],
    ]


def test_the_interval_of_thousands_of_clusters_is_the_normal_one() -> None:
    rng = np.random.default_rng(6)
    sums = rng.integers(-1, 2, (3783, 1)).astype(float)
    low, high = bootstrap_interval(sums, np.ones(3783))[:, 0]
    assert 0 < permutation_p(sums)[0] <= 1
    normal = stats.norm.interval(0.95, sums.mean(), sums.std() / np.sqrt(3783))
    np.testing.assert_allclose([low, high], normal, atol=2e-3)
