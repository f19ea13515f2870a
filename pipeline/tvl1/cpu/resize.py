"""Bilinear resizing on the processor: a frame's pyramid, and flow from a level to the finer one."""

import numpy as np

from flowcpc.stores.base.compiled import kernel


@kernel
def resize(source, target, index, fraction, gain, offset):
    """Write `source`, float32 (h, w), to `target`, (H, W), times `gain` plus `offset`.

    index, fraction: the tables of a Pyramid for one level.
    """
    one = np.float32(1)
    bottom = source.shape[0] - 1
    right = source.shape[1] - 1
    for y in range(target.shape[0]):
        upper = source[index[0, y]]
        lower = source[min(index[0, y] + 1, bottom)]
        down = fraction[0, y]
        for x in range(target.shape[1]):
            left = index[1, x]
            next_ = min(left + 1, right)
            across = fraction[1, x]
            above = upper[left] * (one - across) + upper[next_] * across
            below = lower[left] * (one - across) + lower[next_] * across
            target[y, x] = (above * (one - down) + below * down) * gain + offset


@kernel
def build_levels(frame, sizes, offsets, index, fraction, out):
    """Write the levels of one frame, uint8 (H, W), to `out`, float32, one after the other."""
    height, width = frame.shape
    for y in range(height):
        for x in range(width):
            out[y * width + x] = frame[y, x]
    finer = out[: height * width].reshape(height, width)
    for level in range(1, len(sizes)):
        height, width = sizes[level]
        coarser = out[offsets[level] : offsets[level + 1]].reshape(height, width)
        resize(finer, coarser, index[level], fraction[level], np.float32(1), np.float32(0))
        finer = coarser
