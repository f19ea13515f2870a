"""The pyramid's geometry: sizes of the levels, and the source of every pixel of a resized image.

All backends read these numbers, so that none rounds a coordinate in its own way.
"""

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

from flowcpc.pipeline.tvl1.parameters import TVL1Parameters

MIN_SIDE = 16


@dataclasses.dataclass(frozen=True)
class Pyramid:
    """Geometry of L levels, finest first.

    Row [level, axis] of a table, (L, 2, longest side), serves an axis (0 = y, 1 = x) of `level`:
    pixel d lies at index[d] + fraction[d] of the level that it is resized from. `down` is from the
    finer level (level 0 has none), `up` from the coarser one (the last has none).
    """

    sizes: NDArray[np.int64]  # (L, 2): height and width, px
    offsets: NDArray[np.int64]  # (L + 1,): starts of consecutive levels, and their total
    down_index: NDArray[np.int64]
    down_fraction: NDArray[np.float32]
    up_index: NDArray[np.int64]
    up_fraction: NDArray[np.float32]


@functools.lru_cache(maxsize=8)
def make_pyramid(height: int, width: int, parameters: TVL1Parameters) -> Pyramid:
    """Return the geometry for frames of `height` x `width` px, without levels under 16 px."""
    sizes = np.array([(height, width)])
    while len(sizes) < parameters.scales:
        # np.rint rounds halves to even, as OpenCV does.
        smaller = np.rint(sizes[-1] * parameters.scale_step).astype(np.int64)
        if smaller.min() < MIN_SIDE:
            break
        sizes = np.vstack([sizes, smaller])
    levels = len(sizes)
    index = np.zeros((2, levels, 2, max(height, width)), np.int64)
    fraction = np.zeros(index.shape, np.float32)
    for level, axis, way in np.ndindex(levels, 2, 2):
        other = level + 1 if way else level - 1
        if 0 <= other < levels:
            side, source = int(sizes[level, axis]), int(sizes[other, axis])
            # OpenCV shrinks by the step itself and enlarges by the ratio of the rounded sizes.
            ratio = source / side if way else 1 / parameters.scale_step
            line = _axis(side, source, ratio, parameters.rules.pixel_offset)
            index[way, level, axis, :side], fraction[way, level, axis, :side] = line
    offsets = np.append(0, sizes.prod(axis=1).cumsum())
    return Pyramid(sizes, offsets, index[0], fraction[0], index[1], fraction[1])


def _axis(
    side: int, source: int, ratio: float, offset: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return index and fraction of `side` pixels in `source` pixels; outside of them, 0."""
    # float32 before the floor, as OpenCV does.
    position = ((np.arange(side) + offset) * ratio - offset).astype(np.float32)
    index = np.floor(position).astype(np.int64)
    fraction = position - index.astype(np.float32)
    outside = (index < 0) | (index >= source - 1)
    return np.clip(index, 0, source - 1), np.where(outside, np.float32(0), fraction)
