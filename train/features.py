"""Features of videos from an encoder that is not trained: eight segments each, averaged."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from train.batches import HostBatch, SegmentReader
from train.config import EVALUATION_SEGMENTS
from train.encoder import Encoder
from train.loader import loading
from train.selection import random_segments, videos_in_turn

_STATISTICS_SEGMENTS = 25_600  # at most; plenty for a mean and a variance per channel


def read_random(reader: SegmentReader, seed: int, batch_size: int, step: int) -> HostBatch:
    """Return batch `step` of the endless row of epochs: random segments of the next videos, each with its own random
    crop.
    """
    videos = videos_in_turn(seed, step * batch_size, batch_size, len(reader.flows))
    chosen = random_segments(
        reader.shots, videos, seed=seed, step=step, num_segments=EVALUATION_SEGMENTS, num_flows=reader.num_flows
    )
    return reader.read(chosen, reader.random_corners(seed, step, videos, range(EVALUATION_SEGMENTS)))


def average_features(encoder: Encoder, segments: Tensor) -> Tensor:
    """Return the means (B, D) of the latents of segments (B, T, 2N, h, w); no gradient reaches the encoder."""
    with torch.no_grad():
        latents: Tensor = encoder(segments.flatten(0, 1))
    return latents.unflatten(0, segments.shape[:2]).mean(dim=1)


def estimate_statistics(
    encoder: Encoder, reader: SegmentReader, seed: int, should_stop: Callable[[], bool] = lambda: False
) -> bool:
    """Replace the batch-norm statistics of `encoder` by plain means over one pass of random segments of the videos.

    An untrained encoder would otherwise be judged with statistics that fit no data. Returns False when told to stop; the encoder is left in
    eval mode.
    """
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
    batch_size = encoder.config.linear_batch_size
    batches = min(len(reader.flows), _STATISTICS_SEGMENTS // EVALUATION_SEGMENTS) // batch_size
    read = functools.partial(read_random, reader, seed, batch_size)
    encoder.train()
    with torch.no_grad(), loading(read, range(max(batches, 1))) as loaded:
        for batch in loaded:
            if should_stop():
                return False
            encoder(reader.to_device(batch).flatten(0, 1))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    encoder.eval()
    return True
