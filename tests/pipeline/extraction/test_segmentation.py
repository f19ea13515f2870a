import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from naive import flow_statistics

from flowcpc.pipeline.extraction.segmentation import (
    find_gaps,
    find_segments,
    find_shots,
    frame_statistics,
)
from flowcpc.stores.encoding import DEFAULT, ENCODINGS

breaks = hnp.arrays(bool, st.integers(1, 60))


def frames_of(count: int) -> dict[str, list[float]]:
    """Columns whose values are the number of the flow, at 25 frames per second."""
    numbers = [float(n) for n in range(count)]
    return {name: numbers for name in ("mean_u", "mean_v", "magnitude", "clip_rate")} | {
        "time_s": [n / 25 for n in numbers]
    }


@given(
    hnp.arrays(np.float32, (2, 2, 5, 7), elements=st.floats(-80, 80, width=32)),
    st.sampled_from(sorted(ENCODINGS)),
    st.one_of(st.none(), st.floats(1, 70)),
)
def test_statistics_are_the_loops(flow: np.ndarray, name: str, bound: float | None) -> None:
    encoding = ENCODINGS[name]
    codes = encoding.encode(flow)
    found = frame_statistics(flow, codes, encoding, bound)
    for n in range(2):
        expected = flow_statistics(
            flow[n], encoding.decode(codes)[n], encoding.bound if bound is None else bound
        )
        for column, value in expected.items():
            assert found[column][n] == pytest.approx(value, abs=2e-6, rel=1e-6), column


def test_statistics_do_not_depend_on_blocks() -> None:
    flow = np.random.default_rng(0).normal(0, 5, (7, 2, 9, 11)).astype(np.float32)
    codes = DEFAULT.encode(flow)
    whole = frame_statistics(flow, codes, DEFAULT)
    parts = [
        frame_statistics(flow[part], codes[part], DEFAULT)
        for part in (slice(1), slice(1, 5), slice(5, 7))
    ]
    assert whole == {name: [value for part in parts for value in part[name]] for name in whole}


@given(breaks)
def test_every_flow_is_in_one_shot_or_a_break(broken: np.ndarray) -> None:
    shots = find_shots(frames_of(len(broken)), broken)
    owners = np.zeros(len(broken), int)
    for start, stop in zip(shots["start"], shots["stop"], strict=True):
        assert start < stop
        owners[start:stop] += 1
        assert start == 0 or broken[start - 1]
        assert stop == len(broken) or broken[stop]
    np.testing.assert_array_equal(owners, ~broken)


@given(breaks, st.integers(1, 12))
def test_segments_tile_the_shots(broken: np.ndarray, length: int) -> None:
    frames = frames_of(len(broken))
    shots = find_shots(frames, broken)
    segments = find_segments(frames, shots, length)
    for shot, (start, stop) in enumerate(zip(shots["start"], shots["stop"], strict=True)):
        spans = [
            (a, b)
            for owner, a, b in zip(
                segments["shot"], segments["start"], segments["stop"], strict=True
            )
            if owner == shot
        ]
        assert [flow for a, b in spans for flow in range(a, b)] == list(range(start, stop))
        assert all(b - a == length for a, b in spans[:-1])
        assert 1 <= spans[-1][1] - spans[-1][0] <= length
    for start, stop, mean in zip(
        segments["start"], segments["stop"], segments["mean_u"], strict=True
    ):
        assert mean == pytest.approx((start + stop - 1) / 2)


def test_times_of_shots_and_segments() -> None:
    frames = frames_of(23)
    shots = find_shots(frames, [flow == 4 for flow in range(23)])
    assert list(zip(shots["start_s"], shots["stop_s"], strict=True)) == [(0, 0.16), (0.2, 0.92)]
    segments = find_segments(frames, shots)
    assert segments["start"] == [0, 5, 15]
    assert segments["stop"] == [4, 15, 23]
    assert segments["stop_s"] == pytest.approx([0.16, 0.6, 0.92])


def test_one_flow() -> None:
    frames = frames_of(1)
    assert find_shots(frames, [False])["stop_s"] == [0.0]
    assert find_shots(frames, [True])["start"] == []


def test_a_hole_is_a_gap_and_a_variable_rate_is_none() -> None:
    regular = np.arange(50) / 25
    assert not find_gaps(regular).any()
    late = regular + np.where(np.arange(50) > 20, 3.0, 0)
    assert np.flatnonzero(find_gaps(late)).tolist() == [20]
    variable = np.cumsum(np.tile([0.02, 0.04, 0.12, 0.03], 10))
    assert not find_gaps(variable).any()
    slides = np.arange(20) * 2.0  # a frame every two seconds is how this one was made
    assert not find_gaps(slides).any()
    assert find_gaps([0.0]).tolist() == []
