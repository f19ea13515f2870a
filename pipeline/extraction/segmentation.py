"""Statistics of a video's flow: one row per flow, per shot and per segment of ten flows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores.base.compiled import kernel
from flowcpc.stores.encoding import Encoding

SEGMENT_FLOWS = 10
_MEANS = ("mean_u", "mean_v", "magnitude", "clip_rate")
_DIGITS = {"clip_rate": 9}  # a single value of a large frame still counts
_MICRO = 6  # a micro-pixel, a microsecond; keeps the records small
# Variable frame rates are ordinary: an encoder drops two or three frames where little happens. A
# pause many times the usual interval, and long enough to see, is a hole in the recording: there is
# no motion across it.
_GAP_INTERVALS, _GAP_SECONDS = 8.0, 0.5

Columns = dict[str, list[Any]]


def frame_statistics(
    flow: NDArray[np.float32], codes: NDArray[Any], encoding: Encoding, bound: float | None = None
) -> Columns:
    """Return statistics of every flow as equally long lists.

    `flow` is as computed, float32 (n, 2, H, W), px; `codes` are as stored, of the encoding's dtype.
    mean_u, mean_v and magnitude are means over the decoded codes, px: subtracting them is exact for
    what is read back. clip_rate is the share of the components of `flow` beyond +-`bound`, px, by
    default the encoding's. error is the mean of |decoded - flow|, px.
    """
    bound = encoding.bound if bound is None else bound
    sums = np.zeros((len(flow), 5))
    for n in range(len(flow)):  # one flow at a time stays in the processor's cache
        _add_up(np.ascontiguousarray(flow[n]), encoding.decode(codes[n]), bound, sums[n])
    means = sums / (np.array([1, 1, 1, 2, 2]) * flow.shape[2] * flow.shape[3])
    return {
        name: [round(float(value), _DIGITS.get(name, _MICRO)) for value in means[:, k]]
        for k, name in enumerate((*_MEANS, "error"))
    }


@kernel
def _add_up(
    flow: NDArray[np.float32], decoded: NDArray[np.float32], bound: float, sums: NDArray[np.float64]
) -> None:
    """Set (u, v, |(u, v)|, clipped components, |error|) of one flow, (2, H, W)."""
    columns = np.zeros((5, flow.shape[2]))  # independent sums can be vectorised
    for y in range(flow.shape[1]):
        for x in range(flow.shape[2]):
            u, v = decoded[0, y, x], decoded[1, y, x]
            a, b = flow[0, y, x], flow[1, y, x]
            columns[0, x] += u
            columns[1, x] += v
            columns[2, x] += np.sqrt(u * u + v * v)
            columns[3, x] += np.float32(abs(a) > bound) + np.float32(abs(b) > bound)
            columns[4, x] += abs(u - a) + abs(v - b)
    for k in range(5):
        sums[k] = columns[k].sum()


def find_gaps(time_s: Sequence[float] | NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which flows span a hole in the recording, bool (n,), from n + 1 frame times, s."""
    intervals = np.diff(np.asarray(time_s, np.float64))
    if not len(intervals):
        return np.zeros(0, bool)
    return intervals > max(_GAP_INTERVALS * float(np.median(intervals)), _GAP_SECONDS)


def find_shots(
    frames: Mapping[str, Sequence[Any]], breaks: Sequence[bool] | NDArray[np.bool_]
) -> Columns:
    """Return the maximal runs of flows without a break as equally long lists.

    The columns are start and stop (half open, flows), their times in seconds, and means. `frames`
    are the columns of `frame_statistics` and time_s, the time of each flow's first frame in
    seconds. `breaks`, bool (n,), are flows that span a cut or a gap; they belong to no shot.
    """
    broken = np.r_[True, np.asarray(breaks, bool), True]
    edges = np.flatnonzero(broken[1:] != broken[:-1])
    return _spans(frames, edges[::2].tolist(), edges[1::2].tolist())


def find_segments(
    frames: Mapping[str, Sequence[Any]],
    shots: Mapping[str, Sequence[int]],
    length: int = SEGMENT_FLOWS,
) -> Columns:
    """Return windows of `length` flows (or fewer, at its end) of each shot, and the shot's index.

    The other columns are those of `find_shots`.
    """
    windows = [
        (shot, start, min(start + length, last))
        for shot, (first, last) in enumerate(zip(shots["start"], shots["stop"], strict=True))
        for start in range(first, last, length)
    ]
    owners, starts, stops = ([window[k] for window in windows] for k in range(3))
    return {"shot": owners, **_spans(frames, starts, stops)}


def _spans(frames: Mapping[str, Sequence[Any]], starts: list[int], stops: list[int]) -> Columns:
    times = frames["time_s"]
    last_interval = times[-1] - times[-2] if len(times) > 1 else 0.0  # as long as the one before
    ends = [*times[1:], times[-1] + last_interval]
    columns: Columns = {
        "start": starts,
        "stop": stops,
        "start_s": [times[start] for start in starts],
        "stop_s": [round(ends[stop - 1], _MICRO) for stop in stops],
    }
    for name in _MEANS:
        spans = (frames[name][a:b] for a, b in zip(starts, stops, strict=True))
        columns[name] = [round(float(np.mean(s)), _DIGITS.get(name, _MICRO)) for s in spans]
    return columns
