import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import naive_train
import numpy as np
import pytest
import torch

from stores.flow_store import open_store
from train.batches import SegmentReader, SequenceReader, dequantise, prefetch
from train.config import PretrainConfig

CPU = torch.device("cpu")
LENGTHS = {"c": 5, "a": 30, "b": 40, "d": 1}
IDS = ["a", "b", "c", "d"]
CONFIG = PretrainConfig(num_segments=5, num_observed=3, num_flows=3, spacing=2, size=(9, 12), batch_size=3)


@pytest.fixture
def reader(tmp_path: Path, make_store: Callable[..., Path]) -> SegmentReader:
    rng = np.random.default_rng(0)
    flows = {name: rng.normal(1, 3, (length, 2, 14, 16)).astype(np.float32) for name, length in LENGTHS.items()}
    store = open_store(make_store(tmp_path, flows))
    return SegmentReader(store, IDS, num_flows=3, crop=(9, 12), device=CPU)


def test_batch_equals_the_loops(reader: SegmentReader) -> None:
    store = reader._reader._store
    rng = np.random.default_rng(1)
    videos = np.array([1, 2, 3, 0])
    starts = rng.integers(0, 6, (4, 2))  # beyond the end of the short ones
    corners = np.stack([rng.integers(0, 6, (4, 2)), rng.integers(0, 5, (4, 2))], axis=-1)
    found = reader.to_device(reader.read(videos, starts, corners))
    expected = naive_train.stack([store.read_flow(name) for name in IDS], videos.tolist(), starts, 3, corners, (9, 12))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert reader.flows.tolist() == [LENGTHS[name] for name in IDS]


def test_uniform_motion_becomes_zero(tmp_path: Path, make_store: Callable[..., Path]) -> None:
    flow = np.ones((6, 2, 8, 8), np.float32) * np.array([3.0, -1.5], np.float32)[:, None, None]
    store = open_store(make_store(tmp_path, {"pan": flow}))
    reader = SegmentReader(store, ["pan"], num_flows=4, crop=(5, 5), device=CPU)
    starts = np.array([[0, 4]])
    assert (
        reader.to_device(reader.read(np.array([0]), starts, reader.center_corners(np.array([0]), starts))).abs().max()
        == 0
    )


def test_a_step_is_a_pure_function_of_seed_and_step(reader: SegmentReader) -> None:
    batches = SequenceReader(reader, CONFIG, seed=3)
    forwards = [batches.read(step) for step in range(4)]
    backwards = [SequenceReader(reader, CONFIG, seed=3).read(step) for step in reversed(range(4))][::-1]
    for first, second in zip(forwards, backwards, strict=True):
        assert torch.equal(first.codes, second.codes)
        assert torch.equal(first.means, second.means)
        assert len(set(first.videos.tolist())) == 3
        assert first.strides.shape == (3,)
    assert not torch.equal(forwards[0].codes, forwards[1].codes)
    assert not torch.equal(forwards[0].codes, SequenceReader(reader, CONFIG, seed=4).read(0).codes)
    assert batches.steps_per_epoch == 1


def test_the_context_shares_a_crop_and_each_target_has_its_own(reader: SegmentReader) -> None:
    corners = np.concatenate([reader.random_corners(0, step, np.arange(3), [0, 0, 0, 1, 2]) for step in range(100)])
    assert (corners[:, :3] == corners[:, :1]).all()
    for other in (3, 4):
        same = (corners[:, other] == corners[:, 0]).all(axis=1).mean()
        assert same == pytest.approx(1 / 30, abs=0.05)  # 6 x 5 places
        assert {tuple(corner) for corner in corners[:, other].tolist()} == {(y, x) for y in range(6) for x in range(5)}


def test_center_corners(reader: SegmentReader) -> None:
    assert reader.center_corners(np.array([0, 1]), np.zeros((2, 3), np.int64)).tolist() == [[[2, 2]] * 3] * 2


def test_a_crop_that_does_not_fit_is_refused(reader: SegmentReader) -> None:
    store = reader._reader._store
    with pytest.raises(ValueError, match=r"size=15x16 does not fit the flow in .*, which is 14x16"):
        SegmentReader(store, IDS, num_flows=3, crop=(15, 16), device=CPU)


SHAPES = {"wide": (14, 30), "tall": (20, 14), "square": (14, 14)}


@pytest.fixture
def mixed(tmp_path: Path, make_store: Callable[..., Path]) -> SegmentReader:
    flows = {name: np.zeros((20, 2, *shape), np.float32) for name, shape in SHAPES.items()}
    store = open_store(make_store(tmp_path, flows))
    return SegmentReader(store, list(SHAPES), num_flows=3, crop=(9, 12), device=CPU)


def test_crops_are_drawn_all_over_each_video_s_own_frame(mixed: SegmentReader) -> None:
    videos = np.array([1, 0, 2])
    corners = np.stack([mixed.random_corners(0, step, videos, [0, 0, 1]) for step in range(900)])
    assert (corners[:, :, 0] == corners[:, :, 1]).all()
    for sample, name in enumerate(["tall", "wide", "square"]):
        height, width = SHAPES[name]
        seen = {tuple(corner) for corner in corners[:, sample].reshape(-1, 2).tolist()}
        assert seen == {(y, x) for y in range(height - 9 + 1) for x in range(width - 12 + 1)}


def test_center_corners_of_each_video_s_own_frame(mixed: SegmentReader) -> None:
    corners = mixed.center_corners(np.array([1, 0, 2]), np.zeros((3, 2), np.int64))
    assert corners.tolist() == [[[5, 1]] * 2, [[2, 9]] * 2, [[2, 1]] * 2]


def test_sequences_of_videos_of_several_sizes_are_read(mixed: SegmentReader) -> None:
    batches = SequenceReader(mixed, CONFIG, seed=0)
    assert {tuple(batches.read(step).codes.shape) for step in range(20)} == {(3, 5, 3, 2, 9, 12)}


def test_videos_smaller_than_the_crop_are_named(mixed: SegmentReader) -> None:
    words = r"size=15x12 does not fit 2 of 3 videos in .*, for example wide, which is 14x30; set a smaller size"
    with pytest.raises(ValueError, match=words):
        SegmentReader(mixed._reader._store, list(SHAPES), num_flows=3, crop=(15, 12), device=CPU)


def test_channels_alternate_between_components() -> None:
    codes = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2, 1, 1)  # u0 v0 u1 v1
    levels = torch.arange(256, dtype=torch.float32) * 10
    means = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert dequantise(codes, means, levels).flatten().tolist() == [-1.0, 8.0, 17.0, 26.0]


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_prefetching_changes_nothing_but_time(ahead: int) -> None:
    assert list(prefetch(lambda step: step * step, range(7), ahead=ahead)) == [step * step for step in range(7)]


def test_an_exception_arrives_where_its_batch_is_asked_for() -> None:
    def load(step: int) -> float:
        return 1 / (step - 2)

    batches = prefetch(load, range(5), ahead=4)
    assert [next(batches), next(batches)] == [-0.5, -1.0]
    with pytest.raises(ZeroDivisionError):
        next(batches)


def test_the_thread_ends_with_the_loop() -> None:
    began = threading.active_count()
    loaded: list[int] = []
    with contextlib.closing(prefetch(lambda step: loaded.append(step) or step, range(10**6), ahead=3)) as batches:
        assert next(batches) == 0
        assert threading.active_count() == began + 1
    assert threading.active_count() == began
    assert len(loaded) <= 5
