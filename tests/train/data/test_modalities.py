from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from flowcpc.stores.flow_store import FlowStore, open_store
from flowcpc.train.data.batches import SegmentReader
from flowcpc.train.data.modalities import open_modality
from flowcpc.train.data.selection import Segments
from flowcpc.train.settings.config import PretrainConfig

LENGTHS = {"a": 3, "b": 9}
MEAN = np.array([0.485, 0.456, 0.406])


def config(num_flows: int, size: tuple[int, int]) -> PretrainConfig:
    return PretrainConfig(modality="image", num_flows=num_flows, size=size)


@pytest.fixture
def store(tmp_path: Path, make_store: Callable[..., Path]) -> FlowStore:
    flows = {name: np.zeros((length, 2, 18, 20), np.float32) for name, length in LENGTHS.items()}
    return open_store(make_store(tmp_path, flows, with_frames=True))


def test_images_are_stacked_colours_without_their_mean(store: FlowStore) -> None:
    reader = SegmentReader(store, ["b", "a"], config(3, (9, 12)), torch.device("cpu"))
    assert reader.flows.tolist() == [9, 3]
    videos, starts = np.array([1, 0]), np.array([[0, 2], [6, 1]])
    corners = np.array([[[0, 0], [4, 8]], [[9, 2], [3, 3]]])
    found = reader.to_device(
        reader.read(Segments(videos, starts, np.array([[3, 3], [9, 9]])), corners)
    ).numpy()
    assert (found.dtype, found.shape) == (np.float32, (2, 2, 9, 9, 12))
    for b, video in enumerate(["a", "b"]):
        frames = store.read_frames(video)
        for t in range(2):
            top, left = corners[b, t]
            for n in range(3):
                image = (
                    frames[
                        min(starts[b, t] + n, LENGTHS[video] - 1), top : top + 9, left : left + 12
                    ]
                    / 255
                    - MEAN
                )
                for colour in range(3):
                    np.testing.assert_allclose(
                        found[b, t, 3 * n + colour], image[:, :, colour], atol=1e-6
                    )


def test_a_segment_of_a_short_video_is_read(store: FlowStore) -> None:
    reader = SegmentReader(store, ["a"], config(8, (18, 20)), torch.device("cpu"))
    segments = Segments(np.array([0]), np.array([[2]]), np.array([[3]]))
    found = reader.to_device(reader.read(segments, np.zeros((1, 1, 2), np.int64)))
    assert torch.equal(found[0, 0, 3:6], found[0, 0, 21:24])


def test_flow_is_read_as_ever(store: FlowStore) -> None:
    source = open_modality(store, ["b", "a"], "flow", store.tables("videos", "frames"))
    assert source.offsets.tolist() == [0, 9, 12]
    assert source.means.shape == (12, 2)
    assert source.levels is store.encoding.levels


def test_images_of_a_store_without_frames_are_refused(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    store = open_store(make_store(tmp_path, {"v": np.zeros((3, 2, 18, 20), np.float32)}))
    with pytest.raises(
        ValueError, match=r"modality=image needs frames, and .* holds flow alone; .*--with-frames"
    ):
        open_modality(store, ["v"], "image", store.tables("videos", "frames"))
