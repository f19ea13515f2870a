"""Segments of videos and their averaged features. All reading of an evaluation is here."""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn

from flowcpc.stores.base.listener import SILENT, Listener
from flowcpc.train.data.batches import HostBatch, SegmentReader
from flowcpc.train.data.loader import loading
from flowcpc.train.data.selection import random_segments, uniform_segments, videos_in_turn
from flowcpc.train.evaluation.config import EvaluationConfig
from flowcpc.train.model.encoder import Encoder
from flowcpc.train.pretraining.execution import forward_precision

_STATISTICS_SEGMENTS = 25_600  # at most; plenty for a mean and a variance per channel
Batches = AbstractContextManager[Iterator[HostBatch]]


class Stopped(Exception):
    """The listener asked for a stop; what was done is saved."""


def protocols(segments: int) -> tuple[str, str]:
    """Return the names of the protocols of test videos: seeded random and evenly spread segments.

    >>> protocols(8)
    ('random8', 'uniform8')
    """
    return f"random{segments}", f"uniform{segments}"


def random_batches(
    reader: SegmentReader, seed: int, evaluation: EvaluationConfig, steps: Iterable[int]
) -> Batches:
    """Return a context with an iterator over the batches `steps` of endless epochs, read ahead.

    A batch has random segments of the next videos; each segment has its own random crop.
    """
    size, segments = evaluation.batch_size, evaluation.segments
    counts = {"num_segments": segments, "num_flows": reader.num_flows}

    def read(step: int) -> HostBatch:
        videos = videos_in_turn(seed, step * size, size, len(reader.flows))
        chosen = random_segments(reader.shots, videos, seed=seed, step=step, **counts)
        return reader.read(chosen, reader.random_corners(seed, step, videos, range(segments)))

    return loading(read, steps)


def every_video_once(
    reader: SegmentReader, protocol: str, seed: int, evaluation: EvaluationConfig
) -> Batches:
    """Return a context with an iterator over batches of all videos in order, read ahead.

    `protocol` chooses the segments; they are cropped at the centre.
    """
    videos = np.arange(len(reader.flows))
    counts = {"num_segments": evaluation.segments, "num_flows": reader.num_flows}
    if protocol == protocols(evaluation.segments)[0]:
        chosen = random_segments(reader.shots, videos, seed=seed, step=0, **counts)
    else:
        chosen = uniform_segments(reader.shots, videos, **counts)
    batches = -(-len(videos) // evaluation.batch_size)
    edges = np.linspace(0, len(videos), batches + 1).astype(int).tolist()

    def read(rows: slice) -> HostBatch:
        part = chosen.part(rows)
        return reader.read(part, reader.center_corners(part.videos, part.starts))

    return loading(read, itertools.starmap(slice, itertools.pairwise(edges)))


def average_features(encoder: Encoder, segments: Tensor) -> Tensor:
    """Return the mean latents, float32 (B, D), of segments (B, T, planes, h, w)."""
    with forward_precision(encoder.config.precision, segments.device):
        latents: Tensor = encoder(segments.flatten(0, 1))
    return latents.float().unflatten(0, segments.shape[:2]).mean(dim=1)


def estimate_statistics(
    encoder: Encoder,
    reader: SegmentReader,
    seed: int,
    evaluation: EvaluationConfig,
    listener: Listener = SILENT,
) -> None:
    """Set the batch-norm statistics of `encoder` to means over random segments of the videos.

    Those of an untrained encoder fit no data. The encoder is left in eval mode. Raises Stopped.
    """
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
    if norms:
        videos = min(len(reader.flows), _STATISTICS_SEGMENTS // evaluation.segments)
        steps = range(max(videos // evaluation.batch_size, 1))
        encoder.train()
        with torch.no_grad(), random_batches(reader, seed, evaluation, steps) as batches:
            for batch in batches:
                if listener.should_stop():
                    raise Stopped
                average_features(encoder, reader.to_device(batch))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    encoder.eval()
