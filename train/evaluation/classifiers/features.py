"""Segments of videos and their features: several segments each, averaged. All reading of an evaluation is here."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from flowcpc.train.data.batches import HostBatch, SegmentReader
from flowcpc.train.data.loader import loading
from flowcpc.train.data.selection import random_segments, uniform_segments, videos_in_turn
from flowcpc.train.model.encoder import Encoder
from flowcpc.train.pretraining.execution import forward_precision

_STATISTICS_SEGMENTS = 25_600  # at most; plenty for a mean and a variance per channel


def protocols(segments: int) -> tuple[str, str]:
    """Return the names of the two ways in which test videos are read: seeded random segments, and evenly spread ones.

    >>> protocols(8)
    ('random8', 'uniform8')
    """
    return f"random{segments}", f"uniform{segments}"


def read_random(
    reader: SegmentReader, seed: int, batch_size: int, segments: int, step: int
) -> HostBatch:
    """Return batch `step` of the endless row of epochs: random segments of the next videos, each with its own random crop."""
    videos = videos_in_turn(seed, step * batch_size, batch_size, len(reader.flows))
    chosen = random_segments(
        reader.shots,
        videos,
        seed=seed,
        step=step,
        num_segments=segments,
        num_flows=reader.num_flows,
    )
    return reader.read(chosen, reader.random_corners(seed, step, videos, range(segments)))


@contextlib.contextmanager
def random_batches(
    reader: SegmentReader, seed: int, batch_size: int, segments: int, steps: Iterable[int]
) -> Iterator[Iterator[HostBatch]]:
    """Give an iterator over `read_random` of every step, read ahead."""
    read = functools.partial(read_random, reader, seed, batch_size, segments)
    with loading(read, steps) as batches:
        yield batches


@contextlib.contextmanager
def every_video_once(
    reader: SegmentReader, protocol: str, seed: int, batch_size: int, segments: int
) -> Iterator[Iterator[HostBatch]]:
    """Give an iterator over batches of all videos in order, each once: segments by `protocol`, crops at the centre, read ahead."""
    videos = np.arange(len(reader.flows))
    counts = {"num_segments": segments, "num_flows": reader.num_flows}
    if protocol == protocols(segments)[0]:
        chosen = random_segments(reader.shots, videos, seed=seed, step=0, **counts)
    else:
        chosen = uniform_segments(reader.shots, videos, **counts)
    edges = np.linspace(0, len(videos), -(-len(videos) // batch_size) + 1).astype(int).tolist()

    def read(rows: slice) -> HostBatch:
        part = chosen.part(rows)
        return reader.read(part, reader.center_corners(part.videos, part.starts))

    with loading(read, itertools.starmap(slice, itertools.pairwise(edges))) as batches:
        yield batches


def average_features(encoder: Encoder, segments: Tensor) -> Tensor:
    """Return the means, float32 (B, D), of the latents of segments (B, T, planes, h, w); the encoder works in its settings' precision."""
    with forward_precision(encoder.config.precision, segments.device):
        latents: Tensor = encoder(segments.flatten(0, 1))
    return latents.float().unflatten(0, segments.shape[:2]).mean(dim=1)


def estimate_statistics(
    encoder: Encoder,
    reader: SegmentReader,
    seed: int,
    batch_size: int,
    segments: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Replace the batch-norm statistics of `encoder` by plain means over one pass of random segments of the videos.

    An untrained encoder would otherwise be judged with statistics that fit no data; one without batch norm has none. Returns False when told
    to stop; the encoder is left in eval mode.
    """
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        encoder.eval()
        return True
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
    batches = min(len(reader.flows), _STATISTICS_SEGMENTS // segments) // batch_size
    encoder.train()
    with (
        torch.no_grad(),
        random_batches(reader, seed, batch_size, segments, range(max(batches, 1))) as loaded,
    ):
        for batch in loaded:
            if should_stop():
                return False
            average_features(encoder, reader.to_device(batch))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    encoder.eval()
    return True
