"""Statistics of a video's flow: one row per flow, and one per segment of ten flows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEGMENT_FLOWS = 10
_MEANS = ("mean_u", "mean_v", "magnitude", "clip_rate")
_DIGITS = 6  # a micro-pixel; keeps the records small


def frame_statistics(flow: NDArray[np.float32], clipped: NDArray[np.bool_]) -> dict[str, list[float]]:
    """Return per-flow statistics as equally long lists: mean_u, mean_v, magnitude (px) and clip_rate.

    Parameters
    ----------
    flow : float32 (n, 2, H, W)
        Decoded flow in px, so that a mean subtraction with these means is exact for what is read back.
    clipped : bool (n, 2, H, W)
        Where the encoding could not reach the value.
    """
    means = flow.mean(axis=(2, 3), dtype=np.float64)
    magnitude = np.sqrt(np.square(flow, dtype=np.float64).sum(axis=1)).mean(axis=(1, 2))
    columns = {
        "mean_u": means[:, 0],
        "mean_v": means[:, 1],
        "magnitude": magnitude,
        "clip_rate": clipped.mean(axis=(1, 2, 3), dtype=np.float64),
    }
    return {name: [round(float(value), _DIGITS) for value in values] for name, values in columns.items()}


def segment_statistics(frames: Mapping[str, list[float]], length: int = SEGMENT_FLOWS) -> dict[str, list[Any]]:
    """Return fixed windows of `length` flows, the last one shorter, as equally long lists.

    `frames` holds the columns of `frame_statistics` and time_s, the presentation time of each flow's first frame in seconds. `start` and
    `stop` are half open, in flows; start_s and stop_s their times, where the last flow is taken to last as long as the one before it; the
    other columns are means over the segment.
    """
    count = len(frames["time_s"])
    starts = list(range(0, count, length))
    stops = [min(start + length, count) for start in starts]
    times = frames["time_s"]
    last_interval = times[-1] - times[-2] if count > 1 else 0.0
    ends = [*times[1:], times[-1] + last_interval]
    columns: dict[str, list[Any]] = {
        "start": starts,
        "stop": stops,
        "start_s": [times[start] for start in starts],
        "stop_s": [round(ends[stop - 1], _DIGITS) for stop in stops],
    }
    for name in _MEANS:
        values = frames[name]
        columns[name] = [
            round(float(np.mean(values[start:stop])), _DIGITS) for start, stop in zip(starts, stops, strict=True)
        ]
    return columns
