"""Oracles of the second stage as plain loops and plain integers."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

WORD = 2**64
ORDER, SPACING, START, CROP, FLIP = 0, 1, 2, 3, 4


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


def legal_starts(shots: Sequence[tuple[int, int]], span: int) -> list[tuple[int, int]]:
    """(start, stop of its shot) of all places where `span` flows lie within one shot."""
    return [
        (start, stop)
        for first, stop in shots
        for start in range(first, stop)
        if start + span <= stop
    ]


def sequences(
    shots: Sequence[Sequence[tuple[int, int]]],
    seed: int,
    step: int,
    batch_size: int,
    num_segments: int,
    num_flows: int,
    selection: str,
    spacing: int,
    order: Sequence[int] | None = None,
) -> tuple[list[int], list[list[int]], list[int]]:
    """(videos, starts, stops) of one batch, by the rules of docs/training/feeding.md in a shot.

    `order` is the epoch's permutation, if it is known.
    """
    batches = len(shots) // batch_size
    order = permutation(seed, step // batches, len(shots)) if order is None else order
    videos = order[step % batches * batch_size :][:batch_size]
    all_starts, stops = [], []
    for sample, video in enumerate(videos):
        n = max(stop - start for start, stop in shots[video])
        most = max(min(spacing, math.floor((n - num_segments * num_flows) / (num_segments - 1))), 0)
        gaps = range(num_segments - 1)
        if selection == "overlap":
            strides = [num_flows - spacing for _ in gaps]
        elif selection == "consecutive":
            strides = [num_flows for _ in gaps]
        elif selection == "spaced":
            strides = [num_flows + spacing for _ in gaps]
        elif selection == "variable":
            drawn = below(most + 1, seed, SPACING, step, sample, 0)
            strides = [num_flows + drawn for _ in gaps]
        else:
            strides = [
                num_flows + below(most + 1, seed, SPACING, step, sample, gap) for gap in gaps
            ]
            if selection == "growing":
                strides = sorted(strides)
        if sum(strides) + num_flows > n:
            strides = [max(n - num_flows, 0) // (num_segments - 1) for _ in gaps]
        legal = legal_starts(shots[video], min(sum(strides) + num_flows, n))
        start, stop = legal[below(len(legal), seed, START, step, sample, 0)]
        all_starts.append([start + sum(strides[:t]) for t in range(num_segments)])
        stops.append(stop)
    return list(videos), all_starts, stops


def single_segments(
    shots: Sequence[Sequence[tuple[int, int]]], videos: Sequence[int], num_flows: int
) -> list[list[tuple[int, int]]]:
    """All (start, stop of its shot) at which a segment of each video may lie."""
    return [legal_starts(shots[v], min(num_flows, max(b - a for a, b in shots[v]))) for v in videos]


def stack(
    flow: Sequence[NDArray[np.float32]],
    videos: Sequence[int],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    num_flows: int,
    corners: NDArray[np.int64],
    size: tuple[int, int],
) -> NDArray[np.float32]:
    """Cropped flow minus its whole frame's mean, (B, T, 2N, h, w), channels u0 v0 u1 v1 ..."""
    out = np.zeros((*starts.shape, 2 * num_flows, *size), np.float32)
    for b, video in enumerate(videos):
        for t in range(starts.shape[1]):
            for n in range(num_flows):
                for component in range(2):
                    frame = flow[video][min(int(starts[b, t]) + n, int(stops[b, t]) - 1), component]
                    mean = float(np.mean(frame, dtype=np.float64))
                    for y in range(size[0]):
                        for x in range(size[1]):
                            value = float(frame[corners[b, t, 0] + y, corners[b, t, 1] + x])
                            out[b, t, 2 * n + component, y, x] = value - mean
    return out


def mirrored(stacked: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stacked flow (..., 2N, h, w) as a mirror shows it."""
    out = np.empty_like(stacked)
    for c in range(stacked.shape[-3]):
        for x in range(stacked.shape[-1]):
            column = stacked[..., c, :, stacked.shape[-1] - 1 - x]
            out[..., c, :, x] = -column if c % 2 == 0 else column
    return out


def triangle_weights(before: int, after: int) -> NDArray[np.float64]:
    """(after, before): how much each pixel of a line counts in each pixel of the resized line."""
    scale = before / after
    reach = max(scale, 1.0)
    weights = np.zeros((after, before))
    for i in range(after):
        center = (i + 0.5) * scale
        for j in range(before):
            weights[i, j] = max(0.0, 1 - abs(j + 0.5 - center) / reach)
        weights[i] /= weights[i].sum()
    return weights


def resized(frames: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float64]:
    """Frames (..., H, W) brought to `size`, each direction by itself."""
    rows, columns = (triangle_weights(*pair) for pair in zip(frames.shape[-2:], size, strict=True))
    return rows @ frames.astype(np.float64) @ columns.T


def info_nce(
    predictions: torch.Tensor,
    candidates: torch.Tensor,
    first: int,
    positions: Sequence[int],
    difficult: bool,
) -> tuple[torch.Tensor, NDArray[np.float64], int]:
    """(loss, hits (B, P), classes) from a list of scores for every prediction.

    Video b is row first + b of the candidates.
    """
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


def covering(
    shots: Sequence[Sequence[tuple[int, int]]], num_flows: int
) -> list[tuple[int, int, int]]:
    """(video, start, stop of its shot) of consecutive segments.

    The last segment of a shot is moved back so that it ends with the shot.
    """
    out = []
    for video, spans in enumerate(shots):
        for first, stop in spans:
            start = first
            while start + num_flows < stop:
                out.append((video, start, stop))
                start += num_flows
            out.append((video, max(stop - num_flows, first), stop))
    return out
