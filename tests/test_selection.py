import naive_train
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.selection import (
    CROP,
    draw_integers,
    epoch_order,
    random_starts,
    select_sequences,
    uniform_starts,
    videos_in_turn,
)

SELECTIONS = [("variable", 10), ("variable", 0), ("spaced", 3), ("consecutive", 0), ("overlap", 2)]


@settings(deadline=None)
@given(
    flows=st.lists(st.integers(1, 60), min_size=2, max_size=12),
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 1000),
    num_segments=st.integers(2, 8),
    num_flows=st.integers(3, 10),
    which=st.sampled_from(SELECTIONS),
    data=st.data(),
)
def test_sequences_equal_the_loops_and_fit(
    flows: list[int],
    seed: int,
    step: int,
    num_segments: int,
    num_flows: int,
    which: tuple[str, int],
    data: st.DataObject,
) -> None:
    batch_size = data.draw(st.integers(1, len(flows)))
    found = select_sequences(
        np.array(flows),
        seed=seed,
        step=step,
        batch_size=batch_size,
        num_segments=num_segments,
        num_flows=num_flows,
        selection=which[0],
        spacing=which[1],
    )
    videos, starts, strides = naive_train.sequences(
        flows, seed, step, batch_size, num_segments, num_flows, which[0], which[1]
    )
    assert found.videos.tolist() == videos
    assert found.starts.tolist() == starts
    assert found.strides.tolist() == strides
    assert len(set(videos)) == batch_size
    n = np.array(flows)[found.videos]
    assert (found.starts[:, 0] >= 0).all()
    assert (found.starts[:, -1] + num_flows <= np.maximum(n, num_flows)).all()
    assert (np.diff(found.starts, axis=1) == found.strides[:, None]).all()


def select(flows: list[int], step: int, batch_size: int, **changes: object) -> list[int]:
    arguments = {"num_segments": 3, "num_flows": 4, "selection": "variable", "spacing": 3} | changes
    return select_sequences(np.array(flows), seed=7, step=step, batch_size=batch_size, **arguments)


@pytest.mark.parametrize(
    ("selection", "spacing", "span"), [("spaced", 2, 16), ("consecutive", 0, 12), ("overlap", 1, 10)]
)
def test_every_legal_start_is_reached_and_no_other(selection: str, spacing: int, span: int) -> None:
    starts = [select([20], step, 1, selection=selection, spacing=spacing).starts[0, 0] for step in range(600)]
    assert sorted(set(starts)) == list(range(20 - span + 1))
    counts = np.bincount(starts)
    assert counts.min() > 0.5 * counts.mean()


def test_variable_draws_every_spacing_that_fits() -> None:
    """n = 17 leaves 5 flows for two gaps: spacings 0, 1 and 2, though 3 is allowed."""
    found = [select([17], step, 1) for step in range(400)]
    assert {int(one.strides[0]) for one in found} == {4, 5, 6}
    pairs = {(int(one.strides[0]), int(one.starts[0, 0])) for one in found}
    assert pairs == {(stride, start) for stride in (4, 5, 6) for start in range(17 - 4 - 2 * stride + 1)}


@pytest.mark.parametrize(("flows", "stride"), [(12, 4), (11, 3), (6, 1), (5, 0), (4, 0), (2, 0)])
def test_short_videos_are_read_with_a_smaller_stride(flows: int, stride: int) -> None:
    found = select([flows], 0, 1, selection="spaced", spacing=5)
    assert found.strides.tolist() == [stride]


def test_an_epoch_has_no_video_twice_and_over_epochs_all_are_equally_likely() -> None:
    counts = np.zeros(7, int)
    for epoch in range(300):
        videos = np.concatenate([select([20] * 7, 2 * epoch + batch, 3).videos for batch in range(2)])
        assert len(set(videos.tolist())) == 6  # one of seven is left out of two batches of three
        counts[videos] += 1
    assert counts.min() > 0.9 * counts.mean()


def test_orders_differ_between_epochs_and_seeds() -> None:
    orders = [epoch_order(seed, epoch, 20).tolist() for seed in range(3) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9
    assert all(sorted(order) == list(range(20)) for order in orders)


def test_too_large_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=4 needs as many videos, but there are 3"):
        select([20, 20, 20], 0, 4)


def test_videos_in_turn_run_through_epochs() -> None:
    row = np.concatenate([videos_in_turn(5, first, 4, 6) for first in range(0, 24, 4)])
    expected = [video for epoch in range(4) for video in naive_train.permutation(5, epoch, 6)]
    assert row.tolist() == expected


@given(seed=st.integers(0, 2**63 - 1), step=st.integers(0, 10**6), limit=st.integers(1, 10**9))
@settings(deadline=None)
def test_draws_equal_the_integers_of_python(seed: int, step: int, limit: int) -> None:
    limits = np.array([[limit, 1, 3], [7, limit, limit]])
    expected = [[naive_train.below(int(limits[b, k]), seed, CROP, step, b, k) for k in range(3)] for b in range(2)]
    assert draw_integers(seed, CROP, step, limits).tolist() == expected


def test_random_starts_fit_and_reach_everything() -> None:
    flows = np.array([9, 4, 2])
    found = np.concatenate(
        [random_starts(flows, seed=1, step=step, num_segments=8, num_flows=4) for step in range(40)], axis=1
    )
    assert [sorted(set(row)) for row in found.tolist()] == [[0, 1, 2, 3, 4, 5], [0], [0]]


@given(n=st.integers(1, 300), num_segments=st.integers(1, 10), num_flows=st.integers(1, 12))
def test_uniform_starts_span_the_video(n: int, num_segments: int, num_flows: int) -> None:
    (starts,) = uniform_starts(np.array([n]), num_segments=num_segments, num_flows=num_flows)
    room = max(n - num_flows, 0)
    assert starts.tolist() == [room * t // max(num_segments - 1, 1) for t in range(num_segments)]
    assert starts[0] == 0
    assert starts[-1] == (room if num_segments > 1 else 0)
