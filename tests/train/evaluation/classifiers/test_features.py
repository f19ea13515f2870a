import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import FRAMES, commit_flow
from recorder import Recorder
from train_cases import CONFIG, StopAfter, small_store

from flowcpc.stores.encoding import DEFAULT
from flowcpc.stores.flow_store import FlowStore, create_store, open_store
from flowcpc.train.data.batches import HostBatch, SegmentReader
from flowcpc.train.evaluation.classifiers.features import (
    Stopped,
    average_features,
    estimate_statistics,
    every_video_once,
    random_batches,
)
from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.model.encoder import Encoder


def batches_of(size: int) -> EvaluationConfig:
    return EvaluationConfig(batch_size=size, segments=8)


def read_random(reader: SegmentReader, seed: int, size: int, step: int) -> HostBatch:
    with random_batches(reader, seed, batches_of(size), [step]) as batches:
        return next(batches)


@pytest.fixture
def reader(tmp_path: Path, make_store: Callable[..., Path]) -> SegmentReader:
    store = open_store(small_store(tmp_path, make_store))
    ids = store.videos()["video_id"].tolist()
    return SegmentReader(store, ids, CONFIG, torch.device("cpu"))


@pytest.fixture
def cut_store(tmp_path: Path) -> FlowStore:
    """A store of flow and frames: video n has 9 + n flows, of which number 4 spans a cut."""
    store = create_store(
        tmp_path / "cut.flow", {"height": 18, "width": 20, "encoding": DEFAULT.to_json(), **FRAMES}
    )
    rng = np.random.default_rng(0)
    for n in range(3):
        commit_flow(
            store, f"v{n}", rng.normal(0, 2, (9 + n, 2, 18, 20)).astype(np.float32), cuts=[4]
        )
    store.consolidate()
    return store


def test_an_epoch_reads_every_video_once(reader: SegmentReader) -> None:
    batches = [read_random(reader, 3, 5, step) for step in range(13)]
    videos = np.concatenate([batch.segments.videos for batch in batches]).reshape(5, 13)
    assert (np.sort(videos, axis=1) == np.arange(13)).all()
    assert batches[0].codes.shape == (5, 8, 2, 2, 16, 16)
    assert torch.equal(batches[4].codes, read_random(reader, 3, 5, 4).codes)


@pytest.mark.parametrize("protocol", ["random8", "uniform8"])
def test_every_video_is_read_once_cropped_at_the_centre(
    reader: SegmentReader, protocol: str
) -> None:
    """Short videos too: one has a single flow."""
    with every_video_once(reader, protocol, 5, batches_of(4)) as batches:
        found = list(batches)
    assert np.concatenate([batch.segments.videos for batch in found]).tolist() == list(range(13))
    assert max(len(batch.segments.videos) for batch in found) <= 4
    with every_video_once(reader, protocol, 5, batches_of(13)) as batches:
        (whole,) = list(batches)
    assert torch.equal(torch.cat([batch.codes for batch in found]), whole.codes)
    shortest = int(reader.flows.argmin())
    assert reader.flows[shortest] == 1
    assert (whole.codes[shortest] == whole.codes[shortest, 0, 0]).all()
    with every_video_once(reader, protocol, 6, batches_of(13)) as batches:
        (other,) = list(batches)
    assert torch.equal(other.codes, whole.codes) == (protocol == "uniform8")


def test_features_are_means_of_latents(reader: SegmentReader) -> None:
    encoder = Encoder(CONFIG).eval()
    segments = reader.to_device(read_random(reader, 0, 3, 0))
    with torch.no_grad():
        found = average_features(encoder, segments)
        expected = torch.stack([encoder(segments[b]).mean(dim=0) for b in range(3)])
    torch.testing.assert_close(found, expected)


def test_statistics_are_means_over_the_batches(reader: SegmentReader) -> None:
    encoder = Encoder(CONFIG)
    weights = {name: value.clone() for name, value in encoder.named_parameters()}
    norm = encoder.stem[1]
    momentum = norm.momentum
    estimate_statistics(encoder, reader, 1, batches_of(3))
    convolved = [
        encoder.stem[0](reader.to_device(read_random(reader, 1, 3, step)).flatten(0, 1))
        for step in range(13 // 3)
    ]
    expected = torch.stack([values.mean(dim=(0, 2, 3)) for values in convolved]).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, expected)
    assert not encoder.training
    assert norm.momentum == momentum
    assert all(torch.equal(value, weights[name]) for name, value in encoder.named_parameters())


def test_the_statistics_can_be_interrupted(reader: SegmentReader) -> None:
    listener = Recorder(StopAfter(2))
    with pytest.raises(Stopped):
        estimate_statistics(Encoder(CONFIG), reader, 1, batches_of(3), listener)


def test_an_encoder_without_batch_norm_has_no_statistics() -> None:
    encoder = Encoder(dataclasses.replace(CONFIG, norm="gn")).train()
    estimate_statistics(encoder, None, 1, batches_of(3))
    assert not encoder.training


@pytest.mark.parametrize("protocol", ["random8", "uniform8"])
def test_no_segment_crosses_a_cut(cut_store: FlowStore, protocol: str) -> None:
    reader = SegmentReader(cut_store, ["v0", "v1", "v2"], CONFIG, torch.device("cpu"))
    with every_video_once(reader, protocol, 0, batches_of(2)) as batches:
        read = [batch.segments for batch in batches]
    starts = np.concatenate([segments.starts for segments in read])
    cut = [
        t
        for t, crossed in enumerate(cut_store.frames().query("video_id == 'v0'")["cut"])
        if crossed
    ]
    assert cut == [4]
    assert not ((starts == 4) | (starts + CONFIG.num_flows - 1 == 4)).any()
    assert (starts < 4).any()
    assert (starts > 4).any()
    assert (starts + CONFIG.num_flows <= reader.flows[:, None]).all()


@pytest.mark.parametrize(
    ("settings", "read", "seen"),
    [
        ({"framing": "resize"}, (2, 18, 20), (4, 16, 16)),
        ({"modality": "image"}, (3, 16, 16), (6, 16, 16)),
        ({"modality": "image", "framing": "resize"}, (3, 18, 20), (6, 16, 16)),
    ],
    ids=["whole frames", "images", "whole images"],
)
def test_an_encoder_is_shown_what_it_was_trained_on(
    cut_store: FlowStore, settings: dict[str, str], read: tuple[int, ...], seen: tuple[int, ...]
) -> None:
    config = dataclasses.replace(CONFIG, **settings)
    reader = SegmentReader(cut_store, ["v0", "v1", "v2"], config, torch.device("cpu"))
    with every_video_once(reader, "uniform8", 0, batches_of(3)) as batches:
        (batch,) = list(batches)
    assert batch.codes.shape == (3, 8, CONFIG.num_flows, *read)
    segments = reader.to_device(batch)
    assert segments.shape == (3, 8, *seen)
    with torch.no_grad():
        assert average_features(Encoder(config).eval(), segments).shape == (3, config.latent_size)
