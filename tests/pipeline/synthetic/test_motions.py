"""Tests of flowcpc.pipeline.synthetic.motions."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcpc.pipeline.synthetic.motions import PROGRAMMES, MotionNuisance, Travel

nuisances = st.builds(
    MotionNuisance,
    speed=st.floats(0.1, 10),
    tilt=st.floats(-0.3, 0.3),
    period=st.floats(9, 15),
    sign=st.sampled_from([-1.0, 1.0]),
)
names = st.sampled_from(sorted(PROGRAMMES))


def courses(travel: Travel) -> list[np.ndarray]:
    return [getattr(travel, field.name) for field in dataclasses.fields(travel)]


@given(names, nuisances, st.integers(3, 60))
def test_every_programme_begins_at_rest_place(
    name: str, nuisance: MotionNuisance, frames: int
) -> None:
    for course in courses(PROGRAMMES[name].travel(frames, nuisance)):
        assert course.shape == (frames,)
        assert course[0] == 0


@given(names, nuisances)
def test_speed_is_the_same_in_every_class(name: str, nuisance: MotionNuisance) -> None:
    # 901 frames are many periods of every oscillation; a course there and back turns at a frame
    travel = PROGRAMMES[name].travel(901, nuisance)
    squared = sum(np.diff(course) ** 2 for course in courses(travel))
    # the chord of an oscillation is up to 3 % shorter than its arc
    assert np.sqrt(np.mean(squared)) == pytest.approx(nuisance.speed, rel=0.04)


@given(nuisances, st.integers(3, 60))
def test_the_order_pair_differs_in_order_alone(nuisance: MotionNuisance, frames: int) -> None:
    right, left = (
        PROGRAMMES[name].travel(frames, nuisance) for name in ("RightThenLeft", "LeftThenRight")
    )
    for one, other in zip(courses(right), courses(left), strict=True):
        assert one[-1] == 0
        np.testing.assert_array_equal(np.diff(one)[::-1], np.diff(other))
    steps = np.diff(right.x)
    assert (steps[: (frames - 1) // 2] > 0).all()
    assert (steps[frames // 2 :] < 0).all()


@pytest.mark.parametrize(
    ("name", "field", "sign"),
    [
        ("TranslateRight", "x", 1),
        ("TranslateLeft", "x", -1),
        ("TranslateDown", "y", 1),
        ("TranslateUp", "y", -1),
        ("RotateClockwise", "turn", 1),
        ("RotateCounterClockwise", "turn", -1),
        ("ZoomIn", "grow", 1),
        ("ZoomOut", "grow", -1),
    ],
)
def test_a_steady_programme_goes_one_way(name: str, field: str, sign: int) -> None:
    travel = PROGRAMMES[name].travel(4, MotionNuisance(speed=0.5))
    expected = {other.name: np.zeros(4) for other in dataclasses.fields(Travel)} | {
        field: sign * np.arange(4) / 2
    }
    for other, course in expected.items():
        np.testing.assert_allclose(getattr(travel, other), course, atol=1e-12)


def test_an_oscillation_returns_after_its_period_and_may_start_either_way() -> None:
    for name, field in (
        ("OscillateHorizontal", "x"),
        ("OscillateVertical", "y"),
        ("Shear", "shear"),
    ):
        first, second = (
            getattr(
                PROGRAMMES[name].travel(25, MotionNuisance(speed=1.0, period=12, sign=sign)), field
            )
            for sign in (1, -1)
        )
        np.testing.assert_allclose(first[[12, 24]], 0, atol=1e-9)
        np.testing.assert_allclose(first, -second)
        assert first[1] > 0


def test_tilt_turns_the_way_and_keeps_the_speed() -> None:
    travel = PROGRAMMES["TranslateRight"].travel(3, MotionNuisance(speed=2.0, tilt=np.deg2rad(30)))
    np.testing.assert_allclose([travel.x[1], travel.y[1]], [np.sqrt(3), 1])
