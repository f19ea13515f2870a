"""Oracles as obvious loops: slow, short, and written without looking at the code they check."""

import numpy as np
from numpy.typing import NDArray


def nearest_level(value: float, levels: NDArray[np.float32]) -> float:
    """The level closest to `value`."""
    best = levels[0]
    for level in levels:
        if abs(float(level) - value) < abs(float(best) - value):
            best = level
    return float(best)


def windows(
    flows: list[NDArray[np.uint8]],
    videos: list[int],
    starts: NDArray[np.int64],
    num_flows: int,
    corners: NDArray[np.int64],
    size: tuple[int, int],
) -> NDArray[np.uint8]:
    """Windows of codes or frames, (B, T, N, C, h, w), pixel by pixel.

    The last code or frame of a video is repeated past its end.
    """
    batch, segments = starts.shape
    out = np.zeros((batch, segments, num_flows, flows[0].shape[1], *size), np.uint8)
    for b in range(batch):
        codes = flows[videos[b]]
        for t in range(segments):
            for n in range(num_flows):
                frame = min(int(starts[b, t]) + n, len(codes) - 1)
                for y in range(size[0]):
                    for x in range(size[1]):
                        out[b, t, n, :, y, x] = codes[
                            frame, :, corners[b, t, 0] + y, corners[b, t, 1] + x
                        ]
    return out


def mean_magnitude(flow: NDArray[np.float32]) -> float:
    """Mean length of the vectors of one flow, (2, H, W)."""
    total = 0.0
    for y in range(flow.shape[1]):
        for x in range(flow.shape[2]):
            total += float(np.hypot(float(flow[0, y, x]), float(flow[1, y, x])))
    return total / (flow.shape[1] * flow.shape[2])


def fletcher32(data: bytes) -> int:
    """Fletcher-32 over big-endian 16-bit words, as HDF5's format says.

    An odd last byte is the upper half of a word.
    """
    words = [256 * a + b for a, b in zip(data[::2], [*data[1::2], 0], strict=False)]
    first = second = 0
    for word in words:
        first += word
        second += first
    # A sum that is a multiple of 65535 is 65535 itself, unless every word was 0.
    folded = [total % 65535 or (65535 if total else 0) for total in (first, second)]
    return folded[1] << 16 | folded[0]


def flow_statistics(
    flow: NDArray[np.float32], decoded: NDArray[np.float32], bound: float
) -> dict[str, float]:
    """Means over one flow, (2, H, W), and what came back of it."""
    pixels = flow.shape[1] * flow.shape[2]
    clipped = sum(abs(float(value)) > bound for value in flow.flat)
    error = sum(abs(float(a) - float(b)) for a, b in zip(flow.flat, decoded.flat, strict=True))
    return {
        "mean_u": sum(float(value) for value in decoded[0].flat) / pixels,
        "mean_v": sum(float(value) for value in decoded[1].flat) / pixels,
        "magnitude": mean_magnitude(decoded),
        "clip_rate": clipped / (2 * pixels),
        "error": error / (2 * pixels),
    }


def cut_score(
    before: NDArray[np.uint8], after: NDArray[np.uint8], flow: NDArray[np.float32], every: int
) -> float:
    """Difference of `after` and `before`, relative to how much both vary.

    `before` is moved along `flow` or left in place. Only every `every`-th pixel counts.
    """
    height, width = before.shape
    places = [(y, x) for y in range(0, height, every) for x in range(0, width, every)]
    a = float(np.mean([before[place] for place in places]))
    b = float(np.mean([after[place] for place in places]))
    moved = stayed = contrast = 0.0
    for y, x in places:
        there_x = min(max(x + round(float(flow[0, y, x])), 0), width - 1)
        there_y = min(max(y + round(float(flow[1, y, x])), 0), height - 1)
        moved += abs((float(after[there_y, there_x]) - b) - (float(before[y, x]) - a))
        stayed += abs((float(after[y, x]) - b) - (float(before[y, x]) - a))
        contrast += abs(float(before[y, x]) - a) + abs(float(after[y, x]) - b)
    return 2 * min(moved, stayed) / (contrast + 2 * len(places))
