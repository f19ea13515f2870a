import base64
import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flowcpc.train.report.figures import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Line,
    cloud,
    line_chart,
    matrix,
    nice_places,
    picture_uri,
    thinned,
)

numbers = st.floats(-1e6, 1e6, allow_nan=False)


@given(numbers, st.floats(1e-3, 1e6), st.integers(3, 8))
def test_places_cover_what_they_are_for_in_equal_steps(low: float, span: float, about: int) -> None:
    places = nice_places(low, low + span, about)
    slack = 1e-6 * max(abs(low), span)
    assert places[0] <= low + slack
    assert places[-1] >= low + span - slack
    assert np.allclose(np.diff(places), places[1] - places[0], rtol=1e-3)
    assert 2 <= len(places) <= 2 * about + 3


@given(st.lists(st.tuples(st.integers(1, 100_000), numbers), min_size=1, max_size=30))
def test_all_of_a_chart_lies_within_it(points: list[tuple[int, float]]) -> None:
    chart = line_chart(
        "Loss", "nats", [Line("a", 0, sorted(points), dots=True)], levels=[(2.0, "guessing")]
    )
    assert chart is not None
    for x, y in chart.drawn[0].dots:
        assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1
        assert TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1
    assert chart.levels[0].text == "guessing"


def test_what_is_no_number_is_left_out_and_nothing_is_no_chart() -> None:
    chart = line_chart("Loss", "nats", [Line("a", 0, [(1, math.nan), (2, 3.0), (3, 2.0)])])
    assert chart is not None
    assert chart.drawn[0].path.count("L") == 1
    assert "a: 3 at first, 2 nats at step 3." in chart.summary
    assert line_chart("Loss", "nats", [Line("a", 0, [(1, math.inf)])]) is None
    assert line_chart("Rate", "", [Line("a", 0, [(1, 0.0)])], log=True) is None


def test_decades_are_equally_far_apart_on_a_logarithmic_axis() -> None:
    chart = line_chart("Rate", "", [Line("a", 0, [(1, 0.001), (2, 0.1)])], log=True)
    assert chart is not None
    assert [mark.text for mark in chart.y_marks] == ["0.001", "0.01", "0.1"]
    places = [mark.place for mark in chart.y_marks]
    assert places[0] - places[1] == pytest.approx(places[1] - places[2])


def test_many_points_become_means_and_the_last_step_stays() -> None:
    points = [(step, float(step % 2)) for step in range(1, 4001)]
    few = thinned(points, 100)
    assert len(few) == 100
    assert few[-1] == (4000.0, 0.5)
    assert thinned(points[:3]) == [(1.0, 1.0), (2.0, 0.0), (3.0, 1.0)]


def test_a_matrix_has_shares_of_its_rows() -> None:
    figure = matrix(["a", "b", "c"], np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    assert [(cell.row, cell.column, cell.share, cell.text) for cell in figure.cells] == [
        (0, 0, 0.75, "3"),
        (0, 1, 0.25, "1"),
        (1, 1, 1.0, "2"),
    ]
    assert "5 of 6 predictions are right" in figure.summary


def test_a_matrix_of_many_classes_fits_a_page_with_names_as_large_as_its_fields() -> None:
    names = [f"FieldHockeyPenalty{n}"[:18] for n in range(101)]  # as long as the longest of UCF-101
    large, small = (matrix(names[:count], np.eye(count, dtype=np.int64)) for count in (101, 13))
    assert large.is_large
    assert large.width <= 78 * 16 - 2 * 32  # of the page
    assert large.letters <= large.size
    assert not small.is_large
    assert small.width <= (78 * 16 - 2 * 32 - 26) / 2  # half of it, beside the table


def test_a_rate_that_never_changes_lies_in_the_middle() -> None:
    chart = line_chart("Rate", "", [Line("a", 0, [(1, 0.01), (2, 0.01)])], log=True)
    assert chart is not None
    assert [mark.text for mark in chart.y_marks] == ["0.001", "0.01", "0.1"]


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20))
def test_a_cloud_keeps_its_shape_within_the_unit_square(places: list[tuple[float, float]]) -> None:
    given_places = np.array(places)
    figure = cloud(["a"], np.zeros(len(places), int), given_places, "")
    found = np.array([(x, y) for x, y, _ in figure.points])
    assert (found >= -1e-3).all()
    assert (found <= 1 + 1e-3).all()
    spans = np.ptp(given_places, axis=0)
    if spans.max() > 0:
        np.testing.assert_allclose(np.ptp(found, axis=0), spans / spans.max(), atol=1e-3)


@pytest.mark.parametrize(("size", "form"), [((4, 6), "PNG"), ((80, 120), "WEBP")])
def test_a_picture_holds_its_own_data(size: tuple[int, int], form: str) -> None:
    rgb = np.full((*size, 3), (200, 30, 60), np.uint8)
    head, _, data = picture_uri(rgb, 60).partition(",")
    assert head == f"data:image/{form.lower()};base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (picture.format, picture.size) == (form, (60, 40))
    assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - rgb[0, 0]).max() <= 6
