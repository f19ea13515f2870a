import os
from collections.abc import Callable
from pathlib import Path

import naive
import numpy as np
import pytest

from stores.flow_store import open_store
from stores.reader import WindowReader

LENGTHS = {"a": 3, "b": 25, "c": 40}


@pytest.fixture
def reader(tmp_path: Path, make_store: Callable[..., Path]) -> WindowReader:
    rng = np.random.default_rng(1)
    flows = {name: rng.normal(0, 3, (length, 2, 18, 20)).astype(np.float32) for name, length in LENGTHS.items()}
    return WindowReader(open_store(make_store(tmp_path, flows)), list(LENGTHS))


@pytest.mark.parametrize("spread", [1, 4, 30])
def test_windows_equal_the_loops(reader: WindowReader, spread: int) -> None:
    rng = np.random.default_rng(spread)
    store = reader._store
    videos = np.array([0, 1, 2, 1, 2])
    starts = rng.integers(0, spread, (5, 3))
    corners = np.stack([rng.integers(0, 9, (5, 3)), rng.integers(0, 5, (5, 3))], axis=-1)
    found = reader.read_windows(videos, starts, 4, corners=corners, size=(10, 16))
    codes = [store.read_codes(name) for name in LENGTHS]
    np.testing.assert_array_equal(found, naive.windows(codes, videos.tolist(), starts, 4, corners, (10, 16)))


def test_whole_frames_into_a_given_array(reader: WindowReader) -> None:
    out = np.zeros((1, 2, 5, 2, 18, 20), np.uint8)
    found = reader.read_windows(np.array([1]), np.array([[0, 20]]), 5, out=out)
    assert found is out
    np.testing.assert_array_equal(out[0, 1], reader._store.read_codes("b", 20, 25))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": (19, 20)}, "19x20 does not fit flow of 18x20"),
        ({"size": (10, 10), "corners": np.array([[[9, 0]]])}, "leaves flow"),
        ({"size": (10, 10), "corners": np.array([[[-1, 0]]])}, "leaves flow"),
    ],
)
def test_crops_outside_are_refused(reader: WindowReader, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        reader.read_windows(np.array([1]), np.array([[0]]), 2, **arguments)


def test_negative_start_is_refused(reader: WindowReader) -> None:
    with pytest.raises(ValueError, match="starts at flow -1"):
        reader.read_windows(np.array([1]), np.array([[-1]]), 2)


def test_a_forked_process_is_told_so(reader: WindowReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="does not survive a fork"):
        reader.read_windows(np.array([1]), np.array([[0]]), 2)
