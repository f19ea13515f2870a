"""Samplers in Numba: which flows a batch sees, a pure function of (seed, step, index in the batch).

Every draw is a hash of its coordinates (a counter-based generator), so no state passes from one
batch to the next: workers and ranks may make batches in any order, and a run resumes from any step.
docs/training/feeding.md has the contract.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores.base.compiled import inlined, kernel
from flowcpc.train.data.draws import below, epoch_order, stream
from flowcpc.train.data.shots import Shots

Integers = NDArray[np.int64]

# What a draw is for; part of its coordinates. 0 is the order of an epoch.
_SPACING, _START = 1, 2
CROP, FLIP = 3, 4


class Segments(NamedTuple):
    """T segments of each of B videos; none crosses a cut. Arrays are int64."""

    videos: Integers  # (B,), positions in the list of videos
    starts: Integers  # (B, T), first flow of every segment
    # (B, T), where the shot of every segment ends: a longer segment repeats the flow before.
    stops: Integers

    @property
    def strides(self) -> Integers:
        """Distances between the starts of neighbouring segments, int64 (B, T - 1)."""
        return np.diff(self.starts, axis=1)

    def part(self, rows: slice) -> "Segments":
        """Return those of some of the videos."""
        return Segments(self.videos[rows], self.starts[rows], self.stops[rows])


def select_sequences(
    shots: Shots,
    *,
    seed: int,
    step: int,
    batch_size: int,
    num_segments: int,
    num_flows: int,
    selection: str,
    spacing: int,
) -> Segments:
    """Return one sequence of each of `batch_size` different videos, batch `step` of all processes.

    ```
    num_segments=3, num_flows=4, spaced by 2:   ..ffff__ffff__ffff....
    ```
    An epoch is a permutation of all videos, cut into whole batches; the rest is left out. The next
    epoch has another permutation, so over epochs every video is equally likely.

    Strides are drawn first, as `selection` and `spacing` of PretrainConfig say. A variable spacing
    is uniform over 0..S, S = min(spacing, floor((n - T N) / (T - 1))) with n the flows of the
    video's longest shot and T >= 2. The start is uniform over all flows at which the whole sequence
    lies within one shot, so a long shot is used more often than a short one.

    No video is dropped. If no shot is long enough, the strides become floor((n - N) / (T - 1)). If
    no shot has N flows, every segment is a longest shot, whose last flow the reader repeats.

    Raises ValueError when there are fewer videos than a batch needs.
    """
    count = len(shots.longest)
    if batch_size > count:
        raise ValueError(
            f"batch_size must be at most {count}, the number of videos, got {batch_size}"
        )
    epoch, batch = divmod(step, count // batch_size)
    videos = epoch_order(seed, epoch, count)[batch * batch_size : (batch + 1) * batch_size]
    stride = num_flows + {"overlap": -spacing, "spaced": spacing}.get(selection, 0)
    largest = spacing if selection in ("variable", "variable-gaps", "growing") else 0
    draws = num_segments - 1 if selection in ("variable-gaps", "growing") else 1
    rule = stride, largest, draws, selection == "growing"
    return Segments(videos, *_select(shots, videos, seed, step, (num_segments, num_flows), rule))


def videos_in_turn(seed: int, first: int, count: int, num_videos: int) -> Integers:
    """Return the videos at places [first, first + count) of the sequence of epochs, int64 (count,).

    A batch may span two epochs and then hold a video twice: for supervised losses.
    """
    places = [divmod(place, num_videos) for place in range(first, first + count)]
    return np.array([epoch_order(seed, epoch, num_videos)[n] for epoch, n in places], np.int64)


def random_segments(
    shots: Shots, videos: Integers, *, seed: int, step: int, num_segments: int, num_flows: int
) -> Segments:
    """Return independent segments of `videos` (B,), each uniform over all within one shot.

    If no shot has `num_flows` flows, they are a longest shot of the video.
    """
    counts = num_segments, num_flows
    return Segments(videos, *_pick(shots, videos, seed, step, counts, evenly=False))


def uniform_segments(
    shots: Shots, videos: Integers, *, num_segments: int, num_flows: int
) -> Segments:
    """Return segments of `videos` (B,), spread evenly over those of `random_segments`.

    >>> from flowcpc.train.data.shots import pack_shots
    >>> shots = pack_shots([[(0, 22)], [(0, 5)]])
    >>> uniform_segments(shots, np.array([0, 1]), num_segments=4, num_flows=10).starts.tolist()
    [[0, 4, 8, 12], [0, 0, 0, 0]]
    """
    return Segments(videos, *_pick(shots, videos, 0, 0, (num_segments, num_flows), evenly=True))


def covering_segments(shots: Shots, num_flows: int) -> Segments:
    """Return segments that cover every flow of every shot, one per row (T = 1), sorted.

    In each shot they follow one another; the last one is moved back so that it ends with the shot.

    >>> from flowcpc.train.data.shots import pack_shots
    >>> found = covering_segments(pack_shots([[(0, 3)], [(0, 20)], [(0, 23)]]), 10)
    >>> found.videos.tolist(), found.starts[:, 0].tolist()
    ([0, 1, 1, 2, 2, 2], [0, 0, 10, 0, 10, 13])
    """
    lengths = shots.stops - shots.starts
    counts = -(-lengths // num_flows)
    owners = np.repeat(np.arange(len(lengths)), counts)
    order = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    last = np.maximum(lengths - num_flows, 0)
    starts = shots.starts[owners] + np.minimum(order * num_flows, last[owners])
    videos = np.repeat(np.arange(len(shots.longest)), np.diff(shots.offsets))
    return Segments(videos[owners], starts[:, None], shots.stops[owners][:, None])


@kernel
def _select(
    shots: Shots,
    videos: Integers,
    seed: int,
    step: int,
    counts: tuple[int, int],
    rule: tuple[int, int, int, bool],
) -> tuple[Integers, Integers]:
    """Return starts and the stops of their shots, (B, T), with `counts` T and N.

    The rule: the smallest stride, the largest spacing that is drawn on top of it, the number of
    draws (1 or T - 1), and whether they are sorted.
    """
    num_segments, num_flows = counts
    stride, largest_spacing, draws, growing = rule
    starts = np.empty((len(videos), num_segments), np.int64)
    stops = np.empty((len(videos), num_segments), np.int64)
    gaps = num_segments - 1
    strides = np.empty(gaps, np.int64)
    spacing_stream, start_stream = stream(seed, _SPACING, step), stream(seed, _START, step)
    for b, video in enumerate(videos):
        n = shots.longest[video]
        spare = max(n - num_segments * num_flows, 0) // gaps
        limit = min(largest_spacing, spare) + 1
        for k in range(draws):
            strides[k] = stride + below(limit, spacing_stream, b, k)
        if draws == 1:
            strides[:] = strides[0]
        if growing:
            _sort(strides)
        if strides.sum() + num_flows > n:
            strides[:] = max(n - num_flows, 0) // gaps
        span = min(strides.sum() + num_flows, n)
        number = below(_count(shots, video, span), start_stream, b, 0)
        starts[b, 0], stops[b, :] = _legal(shots, video, span, number)
        for t in range(gaps):
            starts[b, t + 1] = starts[b, t] + strides[t]
    return starts, stops


@kernel
def _pick(
    shots: Shots, videos: Integers, seed: int, step: int, counts: tuple[int, int], evenly: bool
) -> tuple[Integers, Integers]:
    """Return starts and stops (B, T) of single segments: drawn, or evenly spread."""
    num_segments, num_flows = counts
    starts = np.empty((len(videos), num_segments), np.int64)
    stops = np.empty((len(videos), num_segments), np.int64)
    start_stream = stream(seed, _START, step)
    for b, video in enumerate(videos):
        span = min(num_flows, shots.longest[video])
        count = _count(shots, video, span)
        for t in range(num_segments):
            number = (count - 1) * t // max(num_segments - 1, 1)
            if not evenly:
                number = below(count, start_stream, b, t)
            starts[b, t], stops[b, t] = _legal(shots, video, span, number)
    return starts, stops


@inlined
def _sort(values: Integers) -> None:
    """Sort a handful of values in place; NumPy's sort takes seconds to compile."""
    for k in range(1, len(values)):
        value, place = values[k], k
        while place > 0 and values[place - 1] > value:
            values[place] = values[place - 1]
            place -= 1
        values[place] = value


@inlined
def _count(shots: Shots, video: int, span: int) -> Any:
    """Return in how many places `span` flows lie within one of the video's shots."""
    count = 0
    for shot in range(shots.offsets[video], shots.offsets[video + 1]):
        count += max(shots.stops[shot] - shots.starts[shot] - span + 1, 0)
    return count


@inlined
def _legal(shots: Shots, video: int, span: int, number: int) -> Any:
    """Return (start, stop of its shot) of place `number` of those that `_count` counts."""
    shot = shots.offsets[video]
    room = max(shots.stops[shot] - shots.starts[shot] - span + 1, 0)
    while number >= room:
        number -= room
        shot += 1
        room = max(shots.stops[shot] - shots.starts[shot] - span + 1, 0)
    return shots.starts[shot] + number, shots.stops[shot]
