import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import naive_train
import numpy as np
import pytest
import torch
from builders import commit_flow

from flowcpc.stores.encoding import ENCODINGS
from flowcpc.stores.flow_store import create_store, open_store
from flowcpc.train.data.batches import SegmentReader, SequenceReader
from flowcpc.train.data.loader import loading
from flowcpc.train.data.selection import Segments, covering_segments
from flowcpc.train.settings.config import PretrainConfig

CPU = torch.device("cpu")
LENGTHS = {"c": 5, "a": 30, "b": 40, "d": 1}
IDS = ["a", "b", "c", "d"]
CONFIG = PretrainConfig(
    num_segments=5, num_observed=3, num_flows=3, spacing=2, size=(9, 12), batch_size=3
)


MODEL2 = dataclasses.replace(CONFIG, model="model2", context="lstm", num_observed=1)


@pytest.fixture
def reader(tmp_path: Path, make_store: Callable[..., Path]) -> SegmentReader:
    rng = np.random.default_rng(0)
    flows = {
        name: rng.normal(1, 3, (length, 2, 14, 16)).astype(np.float32)
        for name, length in LENGTHS.items()
    }
    store = open_store(make_store(tmp_path, flows))
    return SegmentReader(store, IDS, CONFIG, CPU)


def with_config(reader: SegmentReader, config: PretrainConfig) -> SegmentReader:
    return SegmentReader(reader._reader.store, IDS, config, CPU)


def some_segments(reader: SegmentReader) -> Segments:
    """Segments that end at stops of their own, some beyond them."""
    rng = np.random.default_rng(1)
    videos = np.array([1, 2, 3, 0])
    ends = reader.flows[videos][:, None]
    starts = np.minimum(rng.integers(0, 6, (4, 2)), ends - 1)
    return Segments(videos, starts, np.minimum(starts + rng.integers(1, 6, (4, 2)), ends))


def test_batch_equals_the_loops(reader: SegmentReader) -> None:
    store = reader._reader.store
    rng = np.random.default_rng(2)
    chosen = some_segments(reader)
    corners = np.stack([rng.integers(0, 6, (4, 2)), rng.integers(0, 5, (4, 2))], axis=-1)
    flips = np.array([False, True, False, True])
    flow = [store.read_flow(name) for name in IDS]
    expected = naive_train.stack(
        flow, chosen.videos.tolist(), chosen.starts, chosen.stops, 3, corners, (9, 12)
    )
    found = reader.to_device(reader.read(chosen, corners))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    for b in np.flatnonzero(flips):
        expected[b] = naive_train.mirrored(expected[b])
    np.testing.assert_allclose(
        reader.to_device(reader.read(chosen, corners, flips)).numpy(), expected, atol=1e-5
    )
    assert reader.flows.tolist() == [LENGTHS[name] for name in IDS]


def test_flipping_twice_is_the_identity(reader: SegmentReader) -> None:
    """A store of mirrored flow, mirrored, is the store."""
    store = reader._reader.store
    chosen = some_segments(reader)
    corners = reader.center_corners(chosen.videos, chosen.starts)
    batch = reader.read(chosen, corners)
    straight = reader.to_device(batch)
    turned = reader.to_device(dataclasses.replace(batch, flips=np.ones(4, bool)))
    assert not torch.equal(straight, turned)
    again = torch.from_numpy(np.stack([naive_train.mirrored(one) for one in turned.numpy()]))
    assert torch.equal(again, straight)
    assert store.encoding.levels is not None


@pytest.mark.parametrize("encoding", ["companded8", "uint8-bound20", "int16", "float16"])
@pytest.mark.parametrize(
    "settings", [{}, {"framing": "resize"}, {"framing": "resize", "size": (20, 7)}]
)
def test_uniform_motion_becomes_zero(
    tmp_path: Path, encoding: str, settings: dict[str, object]
) -> None:
    store = create_store(
        tmp_path / "s", {"height": 14, "width": 16, "encoding": ENCODINGS[encoding].to_json()}
    )
    commit_flow(
        store,
        "pan",
        np.ones((6, 2, 14, 16), np.float32) * np.array([3.0, -1.5], np.float32)[:, None, None],
    )
    config = dataclasses.replace(CONFIG, **settings)
    reader = SegmentReader(store, ["pan"], config, CPU)
    chosen = covering_segments(reader.shots, 3)
    corners = reader.center_corners(chosen.videos, chosen.starts)
    for flips in ([False, False], [True, True]):
        found = reader.to_device(reader.read(chosen, corners, np.array(flips)))
        assert found.shape == (2, 1, 6, *config.size)
        assert found.abs().max() < 1e-6
        assert (
            found.abs().max() == 0 or encoding == "uint8-bound20"
        )  # 3 px is no level of it; the mean is rounded


@pytest.mark.parametrize("encoding", ["companded8", "uint8-bound20", "int16", "float16"])
def test_every_encoding_is_decoded(tmp_path: Path, encoding: str) -> None:
    store = create_store(
        tmp_path / "s", {"height": 14, "width": 16, "encoding": ENCODINGS[encoding].to_json()}
    )
    commit_flow(
        store, "v", np.random.default_rng(0).normal(1, 3, (9, 2, 14, 16)).astype(np.float32)
    )
    reader = SegmentReader(store, ["v"], dataclasses.replace(CONFIG, size=(14, 16)), CPU)
    chosen = covering_segments(reader.shots, 3)
    found = reader.to_device(reader.read(chosen, np.zeros((3, 1, 2), np.int64)))
    flow = store.read_flow("v")
    flow -= flow.mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(found.numpy().reshape(9, 2, 14, 16), flow, atol=1e-5)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("size", [(9, 12), (14, 16), (20, 30)])
def test_whole_frames_are_resized(
    reader: SegmentReader, size: tuple[int, int], rescale: bool
) -> None:
    config = dataclasses.replace(MODEL2, framing="resize", size=size, rescale_vectors=rescale)
    whole = with_config(reader, config)
    chosen = some_segments(whole)
    batch = whole.read(chosen, whole.random_corners(0, 0, chosen.videos, [0, 0]))
    assert batch.codes.shape == (4, 2, 3, 2, 14, 16)
    found = whole.to_device(batch)
    flow = [whole._reader.store.read_flow(name) for name in IDS]
    corners = np.zeros((4, 2, 2), np.int64)
    frames = naive_train.stack(
        flow, chosen.videos.tolist(), chosen.starts, chosen.stops, 3, corners, (14, 16)
    )
    expected = naive_train.resized(frames, size)
    if rescale:
        expected[:, :, 0::2] *= size[1] / 16
        expected[:, :, 1::2] *= size[0] / 14
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def same(a: object, b: object) -> bool:
    return (
        torch.equal(a.codes, b.codes)
        and (a.flips == b.flips).all()
        and all(
            np.array_equal(getattr(a.segments, n), getattr(b.segments, n))
            for n in ("videos", "starts", "stops")
        )
    )


def test_a_step_is_a_pure_function_of_seed_and_step(reader: SegmentReader) -> None:
    batches = SequenceReader(reader, CONFIG, seed=3)
    forwards = [batches.read(step) for step in range(4)]
    backwards = [SequenceReader(reader, CONFIG, seed=3).read(step) for step in reversed(range(4))][
        ::-1
    ]
    for first, second in zip(forwards, backwards, strict=True):
        assert same(first, second)
        assert len(set(first.segments.videos.tolist())) == 3
        assert first.segments.strides.shape == (3, 4)
    assert not torch.equal(forwards[0].codes, forwards[1].codes)
    assert not torch.equal(forwards[0].codes, SequenceReader(reader, CONFIG, seed=4).read(0).codes)


@pytest.mark.parametrize(
    ("ranks", "workers"),
    [
        (1, 1),
        (2, 0),
        (8, 0),
        pytest.param(2, 2, marks=pytest.mark.slow),
        pytest.param(4, 2, marks=pytest.mark.slow),
        pytest.param(1, 8, marks=pytest.mark.slow),
    ],
)
def test_ranks_and_workers_change_nothing(reader: SegmentReader, ranks: int, workers: int) -> None:
    """The parts of all ranks add up to the batch of one rank.

    Any number of loader processes reads the same.
    """
    config = dataclasses.replace(CONFIG, batch_size=8, flip=True, selection="variable-gaps")
    reader = SegmentReader(reader._reader.store, IDS * 3, config, CPU)
    whole = [SequenceReader(reader, config, 5).read(step) for step in range(3)]
    parts = []
    for rank in range(ranks):
        own = SequenceReader(reader, config, 5, rank, ranks)
        with loading(own.read, range(3), workers=workers) as loaded:
            parts.append(list(loaded))
    for step, expected in enumerate(whole):
        together = [part[step] for part in parts]
        assert torch.equal(torch.cat([part.codes for part in together]), expected.codes)
        assert np.concatenate([part.flips for part in together]).tolist() == expected.flips.tolist()
        assert (
            np.concatenate([part.segments.strides for part in together]).tolist()
            == expected.segments.strides.tolist()
        )
        assert (
            np.concatenate([part.segments.videos for part in together]).tolist()
            == expected.segments.videos.tolist()
        )
        flow = torch.cat([reader.to_device(part) for part in together])
        assert torch.equal(flow, reader.to_device(expected))


def test_a_batch_that_cannot_be_shared_is_refused(reader: SegmentReader) -> None:
    with pytest.raises(
        ValueError,
        match="batch_size must be a multiple of the number of processes, 2, got 3",
    ):
        SequenceReader(reader, CONFIG, 0, 0, 2)


def test_half_of_the_videos_are_flipped_where_that_is_asked_for(reader: SegmentReader) -> None:
    config = dataclasses.replace(CONFIG, flip=True)
    flips = np.concatenate(
        [SequenceReader(reader, config, 1).read(step).flips for step in range(200)]
    )
    assert flips.mean() == pytest.approx(0.5, abs=0.08)
    assert not SequenceReader(reader, CONFIG, 1).read(0).flips.any()


def test_all_segments_of_a_model_2_share_a_crop(
    reader: SegmentReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    draw = functools.partial(SegmentReader.random_corners, reader)
    monkeypatch.setattr(
        reader, "random_corners", lambda *arguments: seen.append(draw(*arguments)) or seen[-1]
    )
    for step in range(20):
        SequenceReader(reader, MODEL2, 0).read(step)
    corners = np.concatenate(seen)
    assert (corners == corners[:, :1]).all()
    assert len({tuple(corner) for corner in corners[:, 0].tolist()}) > 5


def test_the_context_shares_a_crop_and_each_target_has_its_own(reader: SegmentReader) -> None:
    corners = np.concatenate(
        [reader.random_corners(0, step, np.arange(3), [0, 0, 0, 1, 2]) for step in range(100)]
    )
    assert (corners[:, :3] == corners[:, :1]).all()
    for other in (3, 4):
        same = (corners[:, other] == corners[:, 0]).all(axis=1).mean()
        assert same == pytest.approx(1 / 30, abs=0.05)  # 6 x 5 places
        assert {tuple(corner) for corner in corners[:, other].tolist()} == {
            (y, x) for y in range(6) for x in range(5)
        }


def test_center_corners(reader: SegmentReader) -> None:
    assert (
        reader.center_corners(np.array([0, 1]), np.zeros((2, 3), np.int64)).tolist()
        == [[[2, 2]] * 3] * 2
    )


def test_a_crop_that_does_not_fit_is_refused(reader: SegmentReader) -> None:
    with pytest.raises(ValueError, match=r"size=15x16 does not fit the flow in .*, which is 14x16"):
        with_config(reader, dataclasses.replace(CONFIG, size=(15, 16)))


SHAPES = {"wide": (14, 30), "tall": (20, 14), "square": (14, 14)}


@pytest.fixture
def mixed(tmp_path: Path, make_store: Callable[..., Path]) -> SegmentReader:
    flows = {name: np.zeros((20, 2, *shape), np.float32) for name, shape in SHAPES.items()}
    store = open_store(make_store(tmp_path, flows))
    return SegmentReader(store, list(SHAPES), CONFIG, CPU)


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
    words = (
        "size=15x12 does not fit 2 of 3 videos in .*, for example wide, which is 14x30; "
        "set a smaller size"
    )
    with pytest.raises(ValueError, match=words):
        SegmentReader(
            mixed._reader.store, list(SHAPES), dataclasses.replace(CONFIG, size=(15, 12)), CPU
        )


def test_whole_frames_of_several_shapes_are_refused(mixed: SegmentReader) -> None:
    words = (
        "framing=resize needs videos of one size, .* wide is 14x30 and tall is 20x14; "
        "set framing=crop, or extract with --size"
    )
    with pytest.raises(ValueError, match=words):
        SegmentReader(
            mixed._reader.store, list(SHAPES), dataclasses.replace(CONFIG, framing="resize"), CPU
        )
