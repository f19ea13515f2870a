import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import naive_train
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcpc.train.data.draws import draw_integers, epoch_order
from flowcpc.train.data.selection import (
    CROP,
    Segments,
    covering_segments,
    random_segments,
    select_sequences,
    uniform_segments,
    videos_in_turn,
)
from flowcpc.train.data.shots import pack_shots

SELECTIONS = [
    ("variable", 10),
    ("variable", 0),
    ("variable-gaps", 6),
    ("growing", 6),
    ("spaced", 3),
    ("consecutive", 0),
    ("overlap", 2),
]
Spans = list[tuple[int, int]]


@st.composite
def cut_videos(draw: st.DrawFn) -> Spans:
    """The shots of a video: up to four, with flows across cuts between them and at the ends."""
    at, shots = draw(st.integers(0, 2)), []
    for _ in range(draw(st.integers(1, 4))):
        length = draw(st.integers(1, 60))
        shots.append((at, at + length))
        at += length + draw(st.integers(1, 2))
    return shots


VIDEOS = st.lists(cut_videos(), min_size=2, max_size=8)


def assert_within_shots(segments: Segments, shots: Sequence[Spans], num_flows: int) -> None:
    """Each segment lies within one shot.

    In a shot shorter than a segment, it starts at the shot's first flow.
    """
    for video, starts, stops in zip(segments.videos, segments.starts, segments.stops, strict=True):
        for start, stop in zip(starts, stops, strict=True):
            (first,) = [a for a, b in shots[video] if b == stop]
            assert first <= start < stop
            assert start + num_flows <= stop or start == first


@given(
    shots=VIDEOS,
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 1000),
    num_segments=st.integers(2, 8),
    num_flows=st.integers(3, 10),
    which=st.sampled_from(SELECTIONS),
    data=st.data(),
)
def test_sequences_equal_the_loops_and_cross_no_cut(
    shots: list[Spans],
    seed: int,
    step: int,
    num_segments: int,
    num_flows: int,
    which: tuple[str, int],
    data: st.DataObject,
) -> None:
    batch_size = data.draw(st.integers(1, len(shots)))
    found = select_sequences(
        pack_shots(shots),
        seed=seed,
        step=step,
        batch_size=batch_size,
        num_segments=num_segments,
        num_flows=num_flows,
        selection=which[0],
        spacing=which[1],
    )
    videos, starts, stops = naive_train.sequences(
        shots, seed, step, batch_size, num_segments, num_flows, which[0], which[1]
    )
    assert found.videos.tolist() == videos
    assert found.starts.tolist() == starts
    assert found.stops.tolist() == [[stop] * num_segments for stop in stops]
    assert len(set(videos)) == batch_size
    assert_within_shots(found, shots, num_flows)
    assert (np.diff(found.starts, axis=1) == found.strides).all()
    if which[0] == "growing":
        assert (np.diff(found.strides, axis=1) >= 0).all()


def select(
    shots: list[int] | list[Spans], step: int, batch_size: int, **changes: object
) -> Segments:
    arguments = {"num_segments": 3, "num_flows": 4, "selection": "variable", "spacing": 3} | changes
    spans = [[(0, shot)] if isinstance(shot, int) else shot for shot in shots]
    return select_sequences(
        pack_shots(spans), seed=7, step=step, batch_size=batch_size, **arguments
    )


@pytest.mark.parametrize(
    ("selection", "spacing", "span"),
    [("spaced", 2, 16), ("consecutive", 0, 12), ("overlap", 1, 10)],
)
def test_every_legal_start_of_every_shot_is_reached_alike_and_no_other(
    selection: str, spacing: int, span: int
) -> None:
    shots = [(1, 20), (21, 24), (25, 43)]
    legal = [start for start, _ in naive_train.legal_starts(shots, span)]
    starts = [
        int(select([shots], step, 1, selection=selection, spacing=spacing).starts[0, 0])
        for step in range(900)
    ]
    assert sorted(set(starts)) == legal
    counts = np.bincount(starts)[legal]
    assert counts.min() > 0.5 * counts.mean()


def test_variable_draws_every_spacing_that_fits() -> None:
    """n = 17 leaves 5 flows for two gaps: spacings 0, 1 and 2, though 3 is allowed."""
    found = [select([17], step, 1) for step in range(400)]
    pairs = {(int(one.strides[0, 0]), int(one.starts[0, 0])) for one in found}
    assert pairs == {
        (stride, start) for stride in (4, 5, 6) for start in range(17 - 4 - 2 * stride + 1)
    }
    assert all((one.strides == one.strides[:, :1]).all() for one in found)


def test_the_spacing_is_uniform_whatever_the_shots() -> None:
    """The longest shot limits the spacing.

    A shot that is too short for the drawn spacing is not used.
    """
    found = [select([[(0, 12), (13, 30)]], step, 1) for step in range(900)]
    counts = np.bincount([int(one.strides[0, 0]) for one in found])
    assert np.flatnonzero(counts).tolist() == [4, 5, 6]
    assert counts[4:].min() > 0.8 * counts[4:].mean()
    assert {int(one.starts[0, 0]) for one in found if one.strides[0, 0] == 4} == {0, *range(13, 19)}
    assert {int(one.starts[0, 0]) for one in found if one.strides[0, 0] == 6} == {13, 14}


def test_gaps_are_drawn_one_by_one() -> None:
    """Of two gaps all nine pairs of 0..2 appear; sorted, the six that do not fall."""
    pairs = {
        tuple(select([17], step, 1, selection="variable-gaps").strides[0].tolist())
        for step in range(400)
    }
    assert pairs == {(4 + a, 4 + b) for a in range(3) for b in range(3)}
    pairs = {
        tuple(select([17], step, 1, selection="growing").strides[0].tolist()) for step in range(400)
    }
    assert pairs == {(4 + a, 4 + b) for a in range(3) for b in range(a, 3)}


@pytest.mark.parametrize(("flows", "stride"), [(12, 4), (11, 3), (6, 1), (5, 0), (4, 0), (2, 0)])
@pytest.mark.parametrize(
    "selection", ["spaced", "variable", "variable-gaps", "growing", "consecutive"]
)
def test_short_videos_are_read_with_a_smaller_stride(
    flows: int, stride: int, selection: str
) -> None:
    found = select(
        [flows], 0, 1, selection=selection, spacing=0 if selection == "consecutive" else 5
    )
    assert found.strides.tolist() == [[stride] * 2]


def test_the_shrunk_stride_is_that_of_the_longest_shot() -> None:
    found = [select([[(0, 3), (4, 15), (16, 27), (28, 33)]], step, 1) for step in range(100)]
    assert {tuple(one.strides[0].tolist()) for one in found} == {(3, 3)}
    assert {int(one.starts[0, 0]) for one in found} == {4, 5, 16, 17}


def test_where_all_shots_are_shorter_than_a_segment_one_of_the_longest_is_repeated() -> None:
    found = [select([[(0, 1), (2, 5), (6, 9)]], step, 1) for step in range(60)]
    assert {(*one.starts[0].tolist(), *one.stops[0].tolist()) for one in found} == {
        (2, 2, 2, 5, 5, 5),
        (6, 6, 6, 9, 9, 9),
    }


def test_an_epoch_has_no_video_twice_and_over_epochs_all_are_equally_likely() -> None:
    counts = np.zeros(7, int)
    for epoch in range(300):
        videos = np.concatenate(
            [select([20] * 7, 2 * epoch + batch, 3).videos for batch in range(2)]
        )
        assert len(set(videos.tolist())) == 6  # one of seven is left out of two batches of three
        counts[videos] += 1
    assert counts.min() > 0.9 * counts.mean()


def test_orders_differ_between_epochs_and_seeds() -> None:
    orders = [epoch_order(seed, epoch, 20).tolist() for seed in range(3) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9
    assert all(sorted(order) == list(range(20)) for order in orders)


def test_too_large_a_batch_is_refused() -> None:
    with pytest.raises(
        ValueError, match="batch_size must be at most 3, the number of videos, got 4"
    ):
        select([20, 20, 20], 0, 4)


def in_another_process(step: int) -> tuple[list[int], list[list[int]]]:
    found = select([15, 40, 33, 21], step, 3)
    return found.videos.tolist(), found.starts.tolist()


def test_another_process_draws_the_same() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as pool:
        assert list(pool.map(in_another_process, range(5))) == [
            in_another_process(step) for step in range(5)
        ]


def test_videos_in_turn_run_through_epochs() -> None:
    row = np.concatenate([videos_in_turn(5, first, 4, 6) for first in range(0, 24, 4)])
    expected = [video for epoch in range(4) for video in naive_train.permutation(5, epoch, 6)]
    assert row.tolist() == expected


@given(seed=st.integers(0, 2**63 - 1), step=st.integers(0, 10**6), limit=st.integers(1, 10**9))
def test_draws_equal_the_integers_of_python(seed: int, step: int, limit: int) -> None:
    limits = np.array([[limit, 1, 3], [7, limit, limit]])
    expected = [
        [naive_train.below(int(limits[b, k]), seed, CROP, step, b, k) for k in range(3)]
        for b in range(2)
    ]
    assert draw_integers(seed, CROP, step, limits).tolist() == expected


@given(
    shots=VIDEOS,
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 1000),
    num_segments=st.integers(1, 9),
    num_flows=st.integers(1, 12),
)
def test_single_segments_equal_the_loops(
    shots: list[Spans], seed: int, step: int, num_segments: int, num_flows: int
) -> None:
    videos = np.array([len(shots) - 1, 0, 0])
    legal = naive_train.single_segments(shots, videos.tolist(), num_flows)
    counts = {"num_segments": num_segments, "num_flows": num_flows}
    drawn = random_segments(pack_shots(shots), videos, seed=seed, step=step, **counts)
    even = uniform_segments(pack_shots(shots), videos, **counts)
    for b, places in enumerate(legal):
        for t in range(num_segments):
            number = naive_train.below(len(places), seed, naive_train.START, step, b, t)
            assert (drawn.starts[b, t], drawn.stops[b, t]) == places[number]
            number = (len(places) - 1) * t // max(num_segments - 1, 1)
            assert (even.starts[b, t], even.stops[b, t]) == places[number]
    for found in (drawn, even):
        assert_within_shots(found, shots, num_flows)


def test_random_segments_reach_everything() -> None:
    shots = pack_shots([[(0, 9)], [(3, 7), (8, 10), (11, 16)], [(0, 2)]])
    found = [
        random_segments(shots, np.arange(3), seed=1, step=step, num_segments=8, num_flows=4).starts
        for step in range(40)
    ]
    starts = np.concatenate(found, axis=1).tolist()
    assert [sorted(set(row)) for row in starts] == [[0, 1, 2, 3, 4, 5], [3, 11, 12], [0]]


@given(shots=VIDEOS, num_flows=st.integers(1, 12))
def test_covering_segments_equal_the_loops_and_cover_everything(
    shots: list[Spans], num_flows: int
) -> None:
    found = covering_segments(pack_shots(shots), num_flows)
    rows = zip(
        found.videos.tolist(), found.starts[:, 0].tolist(), found.stops[:, 0].tolist(), strict=True
    )
    assert list(rows) == naive_train.covering(shots, num_flows)
    assert_within_shots(found, shots, num_flows)
    for video, spans in enumerate(shots):
        mine = found.videos == video
        covered = {
            flow
            for start, stop in zip(found.starts[mine, 0], found.stops[mine, 0], strict=True)
            for flow in range(start, min(start + num_flows, stop))
        }
        assert covered == {flow for first, stop in spans for flow in range(first, stop)}


def test_a_part_of_segments() -> None:
    found = select([20, 30, 40], 0, 3)
    part = found.part(slice(1, 3))
    np.testing.assert_array_equal(part.videos, found.videos[1:])
    np.testing.assert_array_equal(part.strides, found.strides[1:])
    np.testing.assert_array_equal(part.stops, found.stops[1:])
