"""Tests of flowcpc.stores.inspection.pictures."""

from collections.abc import Callable
from pathlib import Path

import naive_pictures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from flowcpc.stores.base.errors import UnknownVideoError
from flowcpc.stores.flow_store import FlowStore, open_store
from flowcpc.stores.inspection.pictures import (
    colour_wheel,
    contact_sheet,
    fitted,
    flow_to_rgb,
    label_font,
    one_of_each_class,
    wheel,
    write_png,
)

RIGHT, DOWN, LEFT, UP = (1, 0), (0, 1), (-1, 0), (0, -1)
MakeStore = Callable[..., Path]


def uniform(
    direction: tuple[float, float], number: int = 3, height: int = 12, width: int = 16
) -> NDArray[np.float32]:
    """Flow (number, 2, height, width) that is `direction` everywhere."""
    return np.broadcast_to(
        np.array(direction, np.float32)[:, None, None], (number, 2, height, width)
    ).copy()


@pytest.fixture
def store(tmp_path: Path, make_store: MakeStore) -> FlowStore:
    flows = {
        "v_Right_g01_c01": uniform(RIGHT, 20),
        "v_Right_g02_c01": uniform(RIGHT, 4),
        "v_Left_g01_c01": uniform(LEFT, 2),
        "nameless": uniform(UP, 3),
    }
    labels = {"v_Right_g01_c01": "Right", "v_Right_g02_c01": "Right", "v_Left_g01_c01": "Left"}
    return open_store(make_store(tmp_path, flows, labels))


def test_the_wheel_is_the_published_one() -> None:
    assert np.rint(colour_wheel() * 255).astype(int).tolist() == [
        list(entry) for entry in naive_pictures.wheel_entries()
    ]


@given(
    arrays(np.float32, (2, 3, 4), elements=st.floats(-9, 9, width=32)),
    st.floats(0.5, 12, allow_nan=False),
)
def test_colours_are_those_of_the_published_loops(
    flow: NDArray[np.float32], max_magnitude: float
) -> None:
    ours, naive = flow_to_rgb(flow, max_magnitude), naive_pictures.flow_to_rgb(flow, max_magnitude)
    # one level apart where rounding falls on the other side
    assert np.abs(ours.astype(int) - naive.astype(int)).max() <= 1


def test_zero_flow_is_white() -> None:
    assert (flow_to_rgb(np.zeros((2, 5, 6))) == 255).all()
    assert (flow_to_rgb(np.full((2, 5, 6), -0.0)) == 255).all()


@pytest.mark.parametrize(
    ("direction", "strong", "weak"),
    [(RIGHT, [0], [1, 2]), (DOWN, [0, 1], [2]), (LEFT, [1, 2], [0]), (UP, [2], [1])],
    ids=["right is red", "down is yellow", "left is cyan", "up is violet"],
)
def test_direction_is_hue(
    direction: tuple[float, float], strong: list[int], weak: list[int]
) -> None:
    colour = flow_to_rgb(uniform(direction)[0], 1.0)[0, 0].astype(int)
    assert colour[strong].min() > colour[weak].max() + 100


def test_speed_is_saturation_and_faster_than_the_scale_is_darker() -> None:
    speeds = np.array([0.0, 0.5, 1.0, 1.5])
    colours = flow_to_rgb(np.stack([speeds, 0 * speeds])[:, None], 1.0)[0].astype(int)
    assert colours[:3, 1].tolist() == sorted(colours[:3, 1], reverse=True)
    assert colours[:3, 0].tolist() == [255, 255, 255]
    assert colours[3, 0] == int(0.75 * 255)


def test_a_batch_shares_its_scale() -> None:
    flow = np.concatenate([uniform(RIGHT, 1), 4 * uniform(RIGHT, 1)])
    rgb = flow_to_rgb(flow)
    assert rgb.shape == (2, 12, 16, 3)
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb[0], flow_to_rgb(flow[0], 4.0))
    assert rgb[0, 0, 0, 1] > rgb[1, 0, 0, 1]


@pytest.mark.parametrize(
    ("flow", "scale", "message"),
    [
        (np.zeros((3, 4, 5)), None, r"shape \(3, 4, 5\)"),
        (np.zeros((2, 4)), None, r"shape \(2, 4\)"),
        (np.full((2, 1, 1), np.nan), None, "not finite"),
        (np.zeros((2, 1, 1)), 0.0, "max_magnitude is 0.0"),
        (np.zeros((2, 1, 1)), np.inf, "max_magnitude is inf"),
    ],
)
def test_what_has_no_colour_is_refused(
    flow: NDArray[np.float64], scale: float | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        flow_to_rgb(flow, scale)


def test_the_legend_shows_flow_from_the_centre_on_white() -> None:
    legend = wheel(41)
    assert legend.shape == (41, 41, 3)
    assert legend[20, 20].tolist() == [255, 255, 255]
    assert legend[0, 0].tolist() == [255, 255, 255]
    for (u, v), place in {RIGHT: (20, 40), LEFT: (20, 0), DOWN: (40, 20), UP: (0, 20)}.items():
        np.testing.assert_array_equal(legend[place], flow_to_rgb(uniform((u, v))[0], 1.0)[0, 0])


def test_one_of_each_class_takes_the_first_video_of_each(
    store: FlowStore, tmp_path: Path, make_store: MakeStore
) -> None:
    assert one_of_each_class(store) == ["v_Left_g01_c01", "v_Right_g01_c01"]
    unlabelled = make_store(tmp_path / "other", {"b": uniform(UP), "a": uniform(UP)})
    assert one_of_each_class(open_store(unlabelled)) == ["a"]


def count(sheet: NDArray[np.uint8], direction: tuple[float, float], scale: float = 1.0) -> int:
    """How many pixels of a sheet have the colour of uniform flow."""
    return int((sheet == flow_to_rgb(uniform(direction)[0], scale)[0, 0]).all(axis=2).sum())


def test_a_sheet_shows_the_flow_of_every_video_at_one_scale(store: FlowStore) -> None:
    sheet = contact_sheet(store, ["v_Right_g01_c01", "v_Left_g01_c01"], columns=4)
    assert sheet.dtype == np.uint8
    assert sheet.ndim == 3
    tile = 126 * 94  # 12x16 flow eight times as large, less the outline
    assert 4 * tile <= count(sheet, RIGHT) < 5 * tile
    assert 2 * tile <= count(sheet, LEFT) < 3 * tile  # it has two flows only


def test_a_sheet_s_size_follows_rows_and_columns(store: FlowStore) -> None:
    one = contact_sheet(store, ["v_Right_g01_c01"], columns=8)
    two = contact_sheet(store, ["v_Right_g01_c01", "v_Right_g02_c01"], columns=8)
    assert two.shape[1] == one.shape[1]
    assert two.shape[0] > one.shape[0]
    assert contact_sheet(store, ["v_Right_g01_c01"], columns=10).shape[1] > one.shape[1]


def test_a_sheet_s_text_differs_by_video_and_frames(store: FlowStore) -> None:
    first = contact_sheet(store, ["v_Right_g01_c01"], columns=2)
    second = contact_sheet(store, ["v_Right_g02_c01"], columns=2)
    assert first.shape == second.shape
    assert (first != second).any()


@pytest.mark.parametrize(
    ("text", "width", "line"),
    [
        ("v_Right_g01_c01", 500, "v_Right_g01_c01"),
        ("naïve видео Ελλάδα", 500, "naïve видео Ελλάδα"),
        ("a\nb\tc\x1b", 500, r"a\nb\tc\x1b"),
        ("動画", 500, r"\u52d5\u753b"),
        ("x" * 1000, 1, "…"),
        ("", 1, ""),
    ],
)
def test_a_line_has_only_what_can_be_drawn(text: str, width: float, line: str) -> None:
    assert fitted(text, label_font(14), width) == line


@given(st.text(max_size=60), st.integers(20, 300))
def test_a_line_fits_and_keeps_both_ends(text: str, width: int) -> None:
    font = label_font(14)
    whole, line = fitted(text, font, 1e9), fitted(text, font, width)
    assert line.isprintable()
    assert font.getlength(line) <= width
    head, _, tail = line.partition("…") if line != whole else (whole, "", "")
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert 0 <= len(head) - len(tail) <= 1 or line == whole


def test_names_do_not_stretch_a_sheet(tmp_path: Path, make_store: MakeStore) -> None:
    names = ["v", "a very long name " * 20, "動画\n" * 50]
    opened = open_store(make_store(tmp_path, {name: uniform(RIGHT) for name in names}))
    assert {contact_sheet(opened, [name], columns=8).shape[1] for name in names[1:]} <= {
        *range(540)
    }
    assert len({contact_sheet(opened, [name], columns=3).shape[0] for name in names}) == 1


def test_still_and_large_flow_can_be_drawn(tmp_path: Path, make_store: MakeStore) -> None:
    flows = {"still": uniform((0, 0), 2, 60, 400), "moving": uniform(RIGHT, 1, 60, 400)}
    opened = open_store(make_store(tmp_path, flows))
    assert count(contact_sheet(opened, ["still"]), RIGHT) < 100
    sheet = contact_sheet(opened, ["moving"])
    assert sheet.shape[1] < 400
    assert count(sheet, RIGHT) >= 126 * 17


def test_the_store_is_named_when_a_sheet_cannot_be_drawn(store: FlowStore) -> None:
    message = r"v_Rigth_g01_c01 is not in .*; did you mean v_Right_g01_c01\?"
    with pytest.raises(UnknownVideoError, match=message):
        contact_sheet(store, ["v_Rigth_g01_c01"])
    with pytest.raises(ValueError, match="no video is named"):
        contact_sheet(store, [])


def test_a_png_reads_back_and_leaves_nothing_else(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    file = tmp_path / "new" / "sheet.png"
    write_png(file, rgb)
    with Image.open(file) as picture:
        np.testing.assert_array_equal(np.asarray(picture), rgb)
    write_png(file, rgb[:3])
    with Image.open(file) as picture:
        assert picture.size == (9, 3)
    assert [path.name for path in file.parent.iterdir()] == ["sheet.png"]
