"""Oracles of the second stage as plain loops and plain integers."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

WORD = 2**64
ORDER, SPACING, START, CROP = 0, 1, 2, 3


def scramble(bits: int) -> int:
    """SplitMix64's next output for the state `bits`."""
    bits = (bits + 0x9E3779B97F4A7C15) % WORD
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) % WORD
    return bits ^ (bits >> 31)


def below(limit: int, *coordinates: int) -> int:
    """An integer of [0, limit) from (seed, purpose, step, sample, index)."""
    bits = scramble(coordinates[0])
    for coordinate in coordinates[1:]:
        bits = scramble(bits ^ coordinate)
    return bits % limit


def permutation(seed: int, epoch: int, count: int) -> list[int]:
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        other = below(last + 1, seed, ORDER, epoch, last, 0)
        order[last], order[other] = order[other], order[last]
    return order


def sequences(
    flows: Sequence[int],
    seed: int,
    step: int,
    batch_size: int,
    num_segments: int,
    num_flows: int,
    selection: str,
    spacing: int,
) -> tuple[list[int], list[list[int]], list[int]]:
    """(videos, starts, strides) of one batch, by the table of spec cpc.md."""
    batches = len(flows) // batch_size
    order = permutation(seed, step // batches, len(flows))
    videos = order[step % batches * batch_size :][:batch_size]
    all_starts, strides = [], []
    for sample, video in enumerate(videos):
        n = flows[video]
        if selection == "overlap":
            stride = num_flows - spacing
        elif selection == "consecutive":
            stride = num_flows
        elif selection == "spaced":
            stride = num_flows + spacing
        else:
            most = min(spacing, math.floor((n - num_segments * num_flows) / (num_segments - 1)))
            stride = num_flows + below(max(most, 0) + 1, seed, SPACING, step, sample, 0)
        if (num_segments - 1) * stride + num_flows > n:
            stride = max((n - num_flows) // (num_segments - 1), 0)
        span = (num_segments - 1) * stride + num_flows
        legal = [start for start in range(n) if start + span <= n] or [0]
        start = legal[below(len(legal), seed, START, step, sample, 0)]
        all_starts.append([start + t * stride for t in range(num_segments)])
        strides.append(stride)
    return videos, all_starts, strides


def stack(
    flow: Sequence[NDArray[np.float32]],
    videos: Sequence[int],
    starts: NDArray[np.int64],
    num_flows: int,
    corners: NDArray[np.int64],
    size: tuple[int, int],
) -> NDArray[np.float32]:
    """Cropped flow without the mean of its whole frame, (B, T, 2N, h, w), channels u0 v0 u1 v1 ..."""
    out = np.zeros((*starts.shape, 2 * num_flows, *size), np.float32)
    for b, video in enumerate(videos):
        for t in range(starts.shape[1]):
            for n in range(num_flows):
                for component in range(2):
                    frame = flow[video][min(int(starts[b, t]) + n, len(flow[video]) - 1), component]
                    mean = float(np.mean(frame, dtype=np.float64))
                    for y in range(size[0]):
                        for x in range(size[1]):
                            value = float(frame[corners[b, t, 0] + y, corners[b, t, 1] + x])
                            out[b, t, 2 * n + component, y, x] = value - mean
    return out


def info_nce(
    predictions: torch.Tensor, candidates: torch.Tensor, first: int, positions: Sequence[int], difficult: bool
) -> tuple[torch.Tensor, NDArray[np.float64], int]:
    """(loss, hits (B, P), classes) from a list of scores for every prediction; video b is row first + b of the candidates."""
    losses, hits, classes = [], np.zeros(predictions.shape[:2]), 0
    for b in range(len(predictions)):
        for p, position in enumerate(positions):
            right = predictions[b, p] @ candidates[first + b, position]
            wrong = []
            for other in range(len(candidates)):
                for t in range(candidates.shape[1]):
                    is_right = other == first + b and t == position
                    is_sibling = other == first + b and t != position
                    if not is_right and (difficult or not is_sibling):
                        wrong.append(predictions[b, p] @ candidates[other, t])
            classes = 1 + len(wrong)
            losses.append(torch.stack([right, *wrong]).logsumexp(0) - right)
            hits[b, p] = all(right > score for score in wrong)
    return torch.stack(losses).mean(), hits, classes


def covering(flows: Sequence[int], num_flows: int) -> list[tuple[int, int]]:
    """(video, start) of segments one behind the other, the last one moved back to end with the video."""
    out = []
    for video, n in enumerate(flows):
        start = 0
        while start + num_flows < n:
            out.append((video, start))
            start += num_flows
        out.append((video, max(n - num_flows, 0)))
    return out
