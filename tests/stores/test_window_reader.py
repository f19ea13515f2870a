import functools
import os
from collections.abc import Callable
from pathlib import Path

import naive
import numpy as np
import pytest

from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.flow_store import open_store
from flowcpc.stores.video import reader as video_reader
from flowcpc.stores.window_reader import WindowReader

LENGTHS = {"a": 3, "b": 25, "c": 40}


@pytest.fixture
def reader(tmp_path: Path, make_store: Callable[..., Path]) -> WindowReader:
    rng = np.random.default_rng(1)
    flows = {
        name: rng.normal(0, 3, (length, 2, 18, 20)).astype(np.float32)
        for name, length in LENGTHS.items()
    }
    return WindowReader(open_store(make_store(tmp_path, flows)), list(LENGTHS))


@pytest.mark.parametrize("spread", [1, 4, 30])
def test_windows_equal_the_loops(reader: WindowReader, spread: int) -> None:
    rng = np.random.default_rng(spread)
    store = reader.store
    videos = np.array([0, 1, 2, 1, 2])
    starts = rng.integers(0, spread, (5, 3))
    corners = np.stack([rng.integers(0, 9, (5, 3)), rng.integers(0, 5, (5, 3))], axis=-1)
    found = reader.read_windows(videos, starts, 4, corners=corners, size=(10, 16))
    codes = [store.read_codes(name) for name in LENGTHS]
    np.testing.assert_array_equal(
        found, naive.windows(codes, videos.tolist(), starts, 4, corners, (10, 16))
    )


def test_whole_frames_into_a_given_array(reader: WindowReader) -> None:
    out = np.zeros((1, 2, 5, 2, 18, 20), np.uint8)
    found = reader.read_windows(np.array([1]), np.array([[0, 20]]), 5, out=out)
    assert found is out
    np.testing.assert_array_equal(out[0, 1], reader.store.read_codes("b", 20, 25))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": (19, 20)}, "19x20 does not fit flow of 18x20"),
        ({"size": (10, 10), "corners": np.array([[[9, 0]]])}, "leaves flow"),
        ({"size": (10, 10), "corners": np.array([[[-1, 0]]])}, "leaves flow"),
    ],
)
def test_crops_outside_are_refused(
    reader: WindowReader, arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        reader.read_windows(np.array([1]), np.array([[0]]), 2, **arguments)


def test_negative_start_is_refused(reader: WindowReader) -> None:
    with pytest.raises(ValueError, match="start at flow 0 or later, got -1"):
        reader.read_windows(np.array([1]), np.array([[-1]]), 2)


def test_a_forked_process_is_told_so(reader: WindowReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="does not survive a fork"):
        reader.read_windows(np.array([1]), np.array([[0]]), 2)


def test_files_that_are_given_up_while_they_are_read(
    tmp_path: Path, make_store: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More videos than may be open, on more threads than cores."""
    monkeypatch.setattr(video_reader, "_open", functools.lru_cache(1)(video_reader._OpenFile))
    flows = {f"v{n}": np.full((2, 2, 8, 8), n, np.float32) for n in range(12)}
    reader = WindowReader(open_store(make_store(tmp_path, flows)), list(flows), threads=8)
    rng = np.random.default_rng(0)
    for _ in range(60):
        videos = rng.integers(0, 12, 64)
        found = reader.read_windows(videos, np.zeros((64, 1), np.int64), 2)
        expected = reader.store.encoding.encode(videos.astype(np.float32))
        np.testing.assert_array_equal(found[:, 0, 0, 0, 0, 0], expected)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(reader: WindowReader, threads: int) -> None:
    rng = np.random.default_rng(2)
    videos, starts = rng.integers(0, 3, 7), rng.integers(0, 40, (7, 3))
    other = WindowReader(reader.store, list(LENGTHS), threads=threads)
    np.testing.assert_array_equal(
        other.read_windows(videos, starts, 5), reader.read_windows(videos, starts, 5)
    )


def test_what_cannot_be_read_is_refused(reader: WindowReader) -> None:
    one, first = np.array([1]), np.array([[0]])
    with pytest.raises(ValueError, match="num_flows=0 must be at least 1"):
        reader.read_windows(one, first, 0)
    with pytest.raises(ValueError, match=r"numbered 0 to 2, got \[3\]"):
        reader.read_windows(np.array([3]), first, 2)
    with pytest.raises(ValueError, match=r"out is float32 .*; it must be C-contiguous uint8"):
        reader.read_windows(one, first, 2, out=np.zeros((1, 1, 2, 2, 18, 20), np.float32))
    with pytest.raises(ValueError, match="threads=0 must be at least 1"):
        WindowReader(reader.store, ["a"], threads=0)
    assert reader.read_windows(np.zeros(0, np.int64), np.zeros((0, 3), np.int64), 2).shape == (
        0,
        3,
        2,
        2,
        18,
        20,
    )


SHAPES = {"wide": (18, 30), "tall": (26, 18), "tall too": (26, 18)}


@pytest.fixture
def mixed(tmp_path: Path, make_store: Callable[..., Path]) -> WindowReader:
    rng = np.random.default_rng(1)
    flows = {
        name: rng.normal(0, 3, (7, 2, *shape)).astype(np.float32) for name, shape in SHAPES.items()
    }
    return WindowReader(open_store(make_store(tmp_path, flows)), list(SHAPES), threads=2)


def test_crops_of_videos_of_several_sizes_equal_the_loops(mixed: WindowReader) -> None:
    rng = np.random.default_rng(3)
    videos, starts = rng.integers(0, 3, 9), rng.integers(0, 9, (9, 2))
    room = np.array([SHAPES[name] for name in SHAPES])[videos] - (12, 16)
    corners = rng.integers(0, room[:, None] + 1, (9, 2, 2))
    found = mixed.read_windows(videos, starts, 3, corners=corners, size=(12, 16))
    codes = [mixed.store.read_codes(name) for name in SHAPES]
    np.testing.assert_array_equal(
        found, naive.windows(codes, videos.tolist(), starts, 3, corners, (12, 16))
    )


def test_each_crop_is_held_against_its_own_video(mixed: WindowReader) -> None:
    starts = np.zeros((2, 1), np.int64)
    far_right = np.array([[[0, 14]], [[0, 0]]])
    found = mixed.read_windows(np.array([0, 1]), starts, 2, corners=far_right, size=(18, 16))
    assert found.shape == (2, 1, 2, 2, 18, 16)
    with pytest.raises(
        ValueError,
        match=r"crop of 18x16 leaves flow of 26x18 of tall; corners go from \(0, 0\) to \(8, 2\)",
    ):
        mixed.read_windows(np.array([1, 1]), starts, 2, corners=far_right, size=(18, 16))
    with pytest.raises(
        ValueError,
        match="a crop of 20x16 does not fit flow of 18x30 of wide; give a smaller one",
    ):
        mixed.read_windows(np.array([1, 0]), starts, 2, size=(20, 16))


def test_whole_frames_of_one_size_only(mixed: WindowReader) -> None:
    starts = np.zeros((2, 1), np.int64)
    found = mixed.read_windows(np.array([1, 2]), starts, 2)
    np.testing.assert_array_equal(found[1, 0], mixed.store.read_codes("tall too", 0, 2))
    with pytest.raises(
        ValueError,
        match=r"one size, but wide is 18x30 and tall is 26x18; give the `size` of a crop",
    ):
        mixed.read_windows(np.array([0, 1]), starts, 2)
    with pytest.raises(ValueError, match="no video was given"):
        mixed.read_windows(np.zeros(0, np.int64), starts[:0], 2)
    with pytest.raises(ValueError, match="numbered 0 to 2"):
        mixed.read_windows(np.array([0, 3]), starts, 2)


@pytest.fixture
def frames(tmp_path: Path, make_store: Callable[..., Path]) -> WindowReader:
    flows = {name: np.zeros((length, 2, 18, 20), np.float32) for name, length in LENGTHS.items()}
    store = open_store(make_store(tmp_path, flows, with_frames=True))
    return WindowReader(store, list(LENGTHS), frames=True)


@pytest.mark.parametrize("spread", [1, 4, 30])
def test_windows_of_frames_equal_the_loops(frames: WindowReader, spread: int) -> None:
    rng = np.random.default_rng(spread)
    videos = np.array([0, 1, 2, 1, 2])
    starts = rng.integers(0, spread, (5, 3))
    corners = np.stack([rng.integers(0, 9, (5, 3)), rng.integers(0, 5, (5, 3))], axis=-1)
    found = frames.read_windows(videos, starts, 4, corners=corners, size=(10, 16))
    assert found.dtype == np.uint8
    pictures = [frames.store.read_frames(name).transpose(0, 3, 1, 2) for name in LENGTHS]
    assert [len(video) for video in pictures] == [length + 1 for length in LENGTHS.values()]
    np.testing.assert_array_equal(
        found, naive.windows(pictures, videos.tolist(), starts, 4, corners, (10, 16))
    )


def test_past_the_end_the_last_frame_is_repeated(frames: WindowReader) -> None:
    out = np.zeros((1, 1, 6, 3, 18, 20), np.uint8)
    assert frames.read_windows(np.array([0]), np.array([[2]]), 6, out=out) is out
    last = frames.store.read_frames("a", 3, 4)[0].transpose(2, 0, 1)
    np.testing.assert_array_equal(out[0, 0, 1:], np.stack([last] * 5))
    assert (out[0, 0, 0] != last).any()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_no_frame(frames: WindowReader, threads: int) -> None:
    rng = np.random.default_rng(2)
    videos, starts = rng.integers(0, 3, 7), rng.integers(0, 40, (7, 3))
    other = WindowReader(frames.store, list(LENGTHS), frames=True, threads=threads)
    np.testing.assert_array_equal(
        other.read_windows(videos, starts, 5), frames.read_windows(videos, starts, 5)
    )


def test_frames_that_cannot_be_read_are_refused(frames: WindowReader, tmp_path: Path) -> None:
    one, first = np.array([1]), np.array([[0]])
    with pytest.raises(ValueError, match="num_frames=0 must be at least 1"):
        frames.read_windows(one, first, 0)
    with pytest.raises(ValueError, match="start at frame 0 or later, got -1"):
        frames.read_windows(one, first - 1, 2)
    with pytest.raises(ValueError, match="19x20 does not fit frame of 18x20"):
        frames.read_windows(one, first, 2, size=(19, 20))
    with pytest.raises(
        ValueError, match=r"out is float32 .*; it must be C-contiguous uint8 \(1, 1, 2, 3, 18, 20\)"
    ):
        frames.read_windows(one, first, 2, out=np.zeros((1, 1, 2, 3, 18, 20), np.float32))


def test_frames_of_a_store_without_them_are_refused(reader: WindowReader) -> None:
    with pytest.raises(
        ValueError, match="holds flow without frames; extract into another store with --with-frames"
    ):
        WindowReader(reader.store, list(LENGTHS), frames=True)
    with pytest.raises(ValueError, match="--with-frames"):
        reader.store.read_frames("a")


def test_damaged_frames_name_their_video(frames: WindowReader) -> None:
    (path,) = frames.store.path.glob("frames/*/b.*.mjpeg")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(bytes(damaged))
    starts = np.arange(0, 26, 2)[None]
    with pytest.raises(
        DamagedStoreError, match=r"frames \[\d+, \d+\) of b are damaged .*a checksum fails.*verify"
    ):
        frames.read_windows(np.array([1]), starts, 2)
    assert frames.read_windows(np.array([0, 2]), starts[:, :2].repeat(2, axis=0), 2).shape == (
        2,
        2,
        2,
        3,
        18,
        20,
    )


@pytest.mark.parametrize("kind", ["reader", "frames"])
def test_a_segment_ends_at_its_stop(kind: str, request: pytest.FixtureRequest) -> None:
    """Past a stop the item before it is repeated, although the video continues."""
    used: WindowReader = request.getfixturevalue(kind)
    if kind == "reader":
        stored = used.store.read_codes("b", 0, 12)
    else:
        stored = used.store.read_frames("b", 0, 12).transpose(0, 3, 1, 2)
    starts, stops = np.array([[0, 5, 5]]), np.array([[3, 6, 100]])
    found = used.read_windows(np.array([1]), starts, 4, stops=stops)
    for window, items in zip(found[0], [[0, 1, 2, 2], [5, 5, 5, 5], [5, 6, 7, 8]], strict=True):
        np.testing.assert_array_equal(window, stored[items])


def test_a_stop_that_is_not_above_its_start_is_refused(reader: WindowReader) -> None:
    with pytest.raises(ValueError, match=r"starts at flow 5 and stops at 5"):
        reader.read_windows(np.array([1]), np.array([[0, 5]]), 4, stops=np.array([[3, 5]]))
