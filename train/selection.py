"""Which flows a batch sees: samplers in Numba, pure functions of (seed, step, sample).

Every draw is a hash of its coordinates (a counter-based generator), so no state is carried from one batch to the next:
batches may be made in any order, by any number of workers, and a run can go on from any step.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Integers = NDArray[np.int64]

# What a draw is for; part of its coordinates.
_ORDER, _SPACING, _START = 0, 1, 2
CROP = 3


@dataclass(frozen=True)
class Sequences:
    """T segments of each of B videos.

    Attributes
    ----------
    videos : int64 (B,)
        Positions in the list of videos; all different, because the negatives of a video are the others of its batch.
    starts : int64 (B, T)
        First flow of every segment.
    strides : int64 (B,)
        Distance between segment starts that was really used.
    """

    videos: Integers
    starts: Integers
    strides: Integers


def select_sequences(
    flows: Integers,
    *,
    seed: int,
    step: int,
    batch_size: int,
    num_segments: int,
    num_flows: int,
    selection: str,
    spacing: int,
) -> Sequences:
    """Return one sequence of each of `batch_size` videos.

    ```
    num_segments=3, num_flows=4, spaced by 2:   ..ffff__ffff__ffff....
    ```
    An epoch is a permutation of all videos, cut into whole batches; what does not fill one is left out. The next epoch has another permutation,
    so over epochs every video is equally likely. The first segment starts uniformly wherever the sequence fits. No video is dropped: where the
    sequence is too long for the video the stride shrinks to floor((n - num_flows) / (num_segments - 1)), and a video of fewer than `num_flows`
    flows is read from its start (the reader repeats its last flow). Spec cpc.md, Segment selection.

    Parameters
    ----------
    flows : int64 (V,)
        Number of flows n >= 1 of every video.
    seed, step : int
        The batch's coordinates.
    batch_size, num_segments, num_flows : int
        B, T >= 2 and N.
    selection, spacing
        As in PretrainConfig.

    Raises
    ------
    ValueError
        When there are fewer videos than a batch needs.
    """
    if batch_size > len(flows):
        raise ValueError(
            f"batch_size={batch_size} needs as many videos, but there are {len(flows)}; take at most {len(flows)}"
        )
    epoch, batch = divmod(step, len(flows) // batch_size)
    order = epoch_order(seed, epoch, len(flows))
    videos = order[batch * batch_size : (batch + 1) * batch_size]
    draw_spacing = selection == "variable"
    stride = num_flows + (0 if draw_spacing else -spacing if selection == "overlap" else spacing)
    largest_spacing = spacing if draw_spacing else 0
    starts, strides = _select(flows[videos], seed, step, num_segments, num_flows, stride, largest_spacing)
    return Sequences(videos, starts, strides)


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_videos: int) -> Integers:
    """Return the permutation of the videos in one epoch, int64 (V,), read-only."""
    order: Integers = _permute(seed, epoch, num_videos)
    order.flags.writeable = False
    return order


def videos_in_turn(seed: int, first: int, count: int, num_videos: int) -> Integers:
    """Return the videos at places [first, first + count) of the endless row of epochs, int64 (count,).

    A batch may span two epochs and then hold a video twice; for losses that compare a video with its label alone.
    """
    places = np.arange(first, first + count)
    return np.array([epoch_order(seed, int(p // num_videos), num_videos)[p % num_videos] for p in places], np.int64)


def random_starts(flows: Integers, *, seed: int, step: int, num_segments: int, num_flows: int) -> Integers:
    """Return independent, uniform starts of segments that fit the videos of `flows` (B,); int64 (B, num_segments)."""
    room = np.maximum(flows - num_flows, 0) + 1
    return draw_integers(seed, _START, step, np.repeat(room[:, None], num_segments, axis=1))


def uniform_starts(flows: Integers, *, num_segments: int, num_flows: int) -> Integers:
    """Return evenly spread starts, the first at flow 0 and the last ending with the video; int64 (B, num_segments).

    >>> uniform_starts(np.array([22, 5]), num_segments=4, num_flows=10).tolist()
    [[0, 4, 8, 12], [0, 0, 0, 0]]
    """
    room = np.maximum(flows - num_flows, 0)
    return room[:, None] * np.arange(num_segments) // max(num_segments - 1, 1)


@njit(cache=False)
def draw_integers(seed: int, purpose: int, step: int, limits: Integers) -> Integers:
    """Return an integer of [0, limit) for every limit >= 1; int64 of the shape (B, K) of `limits`."""
    out = np.empty_like(limits)
    for b in range(limits.shape[0]):
        for k in range(limits.shape[1]):
            out[b, k] = _below(limits[b, k], seed, purpose, step, b, k)
    return out


@njit(cache=False)
def _select(
    flows: Integers, seed: int, step: int, num_segments: int, num_flows: int, stride: int, largest_spacing: int
) -> tuple[Integers, Integers]:
    starts = np.empty((len(flows), num_segments), np.int64)
    strides = np.empty(len(flows), np.int64)
    gaps = num_segments - 1
    for b in range(len(flows)):
        room = max(flows[b] - num_flows, 0)  # a segment may start at 0 .. room
        spare = (flows[b] - num_segments * num_flows) // gaps
        spacing = _below(max(min(largest_spacing, spare), 0) + 1, seed, _SPACING, step, b, 0)
        strides[b] = min(stride + spacing, room // gaps)
        first = _below(room - gaps * strides[b] + 1, seed, _START, step, b, 0)
        for t in range(num_segments):
            starts[b, t] = first + t * strides[b]
    return starts, strides


@njit(cache=False)
def _permute(seed: int, epoch: int, num_videos: int) -> Integers:
    order = np.arange(num_videos)
    for last in range(num_videos - 1, 0, -1):
        other = _below(last + 1, seed, _ORDER, epoch, last, 0)
        order[last], order[other] = order[other], order[last]
    return order


@njit(cache=False)
def _below(limit: int, seed: int, purpose: int, step: int, sample: int, index: int) -> np.int64:
    """Return an integer of [0, limit); the bias of the remainder is below limit / 2**64."""
    bits = _scramble(np.uint64(seed))
    for coordinate in (purpose, step, sample, index):
        bits = _scramble(bits ^ np.uint64(coordinate))
    return np.int64(bits % np.uint64(limit))


@njit(cache=False)
def _scramble(bits: np.uint64) -> np.uint64:
    """One step of SplitMix64 (Steele, Lea and Flood 2014), a bijection of 64 bits."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
