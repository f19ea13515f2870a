from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from train_cases import CONFIG, StopAfter, small_store

from stores.flow_store import open_store
from train.batches import SegmentReader
from train.encoder import Encoder
from train.features import average_features, estimate_statistics, every_video_once, open_reader, read_random


@pytest.fixture
def reader(tmp_path: Path, make_store: Callable[..., Path]) -> SegmentReader:
    store = open_store(small_store(tmp_path, make_store))
    ids = store.videos()["video_id"].tolist()
    return open_reader(store, ids, CONFIG, torch.device("cpu"))


def test_an_epoch_reads_every_video_once(reader: SegmentReader) -> None:
    batches = [read_random(reader, 3, 5, 8, step) for step in range(13)]
    videos = np.concatenate([batch.videos for batch in batches]).reshape(5, 13)
    assert (np.sort(videos, axis=1) == np.arange(13)).all()
    assert batches[0].codes.shape == (5, 8, 2, 2, 16, 16)
    assert torch.equal(batches[4].codes, read_random(reader, 3, 5, 8, 4).codes)


@pytest.mark.parametrize("protocol", ["random8", "uniform8"])
def test_every_video_is_read_once_cropped_at_the_centre(reader: SegmentReader, protocol: str) -> None:
    """Short videos too: one has a single flow."""
    with every_video_once(reader, protocol, 5, 4, 8) as batches:
        found = list(batches)
    assert np.concatenate([batch.videos for batch in found]).tolist() == list(range(13))
    assert max(len(batch.videos) for batch in found) <= 4
    with every_video_once(reader, protocol, 5, 13, 8) as batches:
        (whole,) = list(batches)
    assert torch.equal(torch.cat([batch.codes for batch in found]), whole.codes)
    shortest = int(reader.flows.argmin())
    assert reader.flows[shortest] == 1
    assert (whole.codes[shortest] == whole.codes[shortest, 0, 0]).all()
    with every_video_once(reader, protocol, 6, 13, 8) as batches:
        (other,) = list(batches)
    assert torch.equal(other.codes, whole.codes) == (protocol == "uniform8")


def test_features_are_means_of_latents(reader: SegmentReader) -> None:
    encoder = Encoder(CONFIG).eval()
    segments = reader.to_device(read_random(reader, 0, 3, 8, 0))
    with torch.no_grad():
        found = average_features(encoder, segments)
        expected = torch.stack([encoder(segments[b]).mean(dim=0) for b in range(3)])
    torch.testing.assert_close(found, expected)


def test_statistics_are_means_over_the_batches(reader: SegmentReader) -> None:
    encoder = Encoder(CONFIG)
    weights = {name: value.clone() for name, value in encoder.named_parameters()}
    norm = encoder.stem[1]
    momentum = norm.momentum
    assert estimate_statistics(encoder, reader, 1, 3, 8)
    convolved = [
        encoder.stem[0](reader.to_device(read_random(reader, 1, 3, 8, step)).flatten(0, 1)) for step in range(13 // 3)
    ]
    expected = torch.stack([values.mean(dim=(0, 2, 3)) for values in convolved]).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, expected)
    assert not encoder.training
    assert norm.momentum == momentum
    assert all(torch.equal(value, weights[name]) for name, value in encoder.named_parameters())


def test_the_statistics_can_be_interrupted(reader: SegmentReader) -> None:
    assert not estimate_statistics(Encoder(CONFIG), reader, 1, 3, 8, StopAfter(2))
