"""Bilinear resizing on the processor: a frame's pyramid, and flow from a level to the finer one."""

import numpy as np

from flowcpc.stores.base.compiled import kernel


@kernel
def resize(source, target, index, fraction, gain, offset):
    """Write `source` to `target` times `gain` plus `offset`, by a level's tables of a Pyramid."""
    one, (height, width) = np.float32(1), source.shape
    for y in range(target.shape[0]):
        top, down = index[0, y], fraction[0, y]
        upper, lower = source[top], source[min(top + 1, height - 1)]
        for x in range(target.shape[1]):
            left, across = index[1, x], fraction[1, x]
            right = min(left + 1, width - 1)
            above = upper[left] * (one - across) + upper[right] * across
            below = lower[left] * (one - across) + lower[right] * across
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
