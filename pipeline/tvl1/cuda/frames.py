"""CUDA kernels around the iterations: pyramid, gradient, warp, median, flow between levels.

Every kernel runs over (x, y, pair or frame). Images of a level lie densely one after the other in a
flat float32 array, (..., height, width); `size` is (height, width). Pair t has frames t and t + 1
of its batch.
"""

import numpy as np
from numba import cuda

from flowcpc.pipeline.tvl1.constants import BORDER, REST
from flowcpc.pipeline.tvl1.cpu import median
from flowcpc.pipeline.tvl1.cpu import warp as cpu_warp
from flowcpc.pipeline.tvl1.cuda.arithmetic import floor, maximum, minimum, multiply, on_device
from flowcpc.pipeline.tvl1.cuda.control import FILTER, SIDE_U


@cuda.jit(device=True)
def _sample(source, start, size, tables, y, x):
    height, width = size
    index, fraction = tables
    one = np.float32(1)
    top = start + index[0, y] * width
    low = start + min(index[0, y] + 1, height - 1) * width
    left = index[1, x]
    right = min(left + 1, width - 1)
    down, across = fraction[0, y], fraction[1, x]
    above = multiply(source[top + left], one - across) + multiply(source[top + right], across)
    below = multiply(source[low + left], one - across) + multiply(source[low + right], across)
    return multiply(above, one - down) + multiply(below, down)


@cuda.jit
def read_frames(frames, levels, size, total):
    """Write uint8 frames (T, H, W) to level 0 of levels (T, total)."""
    height, width = size
    x, y, t = cuda.grid(3)
    if x < width and y < height:
        levels[t * total + y * width + x] = np.float32(frames[t, y, x])


@cuda.jit
def shrink_level(levels, offsets, size, finer_size, tables, total):
    """Write a level of all frames from the finer one; `offsets` of both within a frame's levels."""
    height, width = size
    coarser, finer = offsets
    x, y, t = cuda.grid(3)
    if x < width and y < height:
        value = _sample(levels, t * total + finer, finer_size, tables, y, x)
        levels[t * total + coarser + y * width + x] = value


@cuda.jit
def differentiate(levels, offset, gradients, size, total):
    """Write the centred gradient of every pair's second frame, gradients (pairs, 2, H, W)."""
    height, width = size
    x, y, pair = cuda.grid(3)
    if x < width and y < height:
        half = np.float32(0.5)
        start = (pair + 1) * total + offset
        row = start + y * width
        out = 2 * pair * height * width + y * width + x
        right, left = row + min(x + 1, width - 1), row + max(x - 1, 0)
        gradients[out] = multiply(half, levels[right] - levels[left])
        below = start + min(y + 1, height - 1) * width + x
        above = start + max(y - 1, 0) * width + x
        gradients[out + height * width] = multiply(half, levels[below] - levels[above])


@cuda.jit
def begin_level(coarse, u, p, size, coarse_size, tables, enlarge):
    """Write side 0: p = 0, u from the coarser flow (pairs, 2, h, w), at rest where h = 0."""
    height, width = size
    coarse_height, coarse_width = coarse_size
    x, y, pair = cuda.grid(3)
    if x < width and y < height:
        plane = height * width
        at = y * width + x
        for component in range(4):
            p[(4 * pair + component) * plane + at] = np.float32(0)
        for component in range(2):
            value = REST
            if coarse_height > 0:
                start = (2 * pair + component) * coarse_height * coarse_width
                sampled = _sample(coarse, start, coarse_size, tables, y, x)
                value = multiply(sampled, enlarge) + REST
            u[(2 * pair + component) * plane + at] = value


@cuda.jit
def end_level(u, control, flow, size, pairs, factor):
    """Write the level's flow (pairs, 2, H, W), times `factor`."""
    height, width = size
    x, y, pair = cuda.grid(3)
    if x < width and y < height:
        plane = height * width
        at = y * width + x
        for component in range(2):
            source = ((control[SIDE_U, pair] * pairs + pair) * 2 + component) * plane + at
            flow[(2 * pair + component) * plane + at] = multiply(u[source] - REST, factor)


_keys = on_device([cpu_warp.keys], np=np, multiply=multiply, splat=np.float32)["keys"]


@cuda.jit(device=True)
def _tap(image, start, y, x, frame):
    height, width, repeat = frame
    if repeat:
        return image[start + min(max(y, 0), height - 1) * width + min(max(x, 0), width - 1)]
    if x < 0 or x >= width or y < 0 or y >= height:
        return np.float32(0)
    return image[start + y * width + x]


@cuda.jit(device=True)
def _column(image, start, y, x, frame, weights):
    value = multiply(weights[0], _tap(image, start, y - 1, x, frame))
    value = value + multiply(weights[1], _tap(image, start, y, x, frame))
    value = value + multiply(weights[2], _tap(image, start, y + 1, x, frame))
    return value + multiply(weights[3], _tap(image, start, y + 2, x, frame))


@cuda.jit(device=True)
def _bicubic(image, start, y, x, frame, down, across):
    """Return the sum of sixteen taps, columns first, in the order of the processor's vectors."""
    c0 = multiply(_column(image, start, y, x - 1, frame, down), across[0])
    c1 = multiply(_column(image, start, y, x, frame, down), across[1])
    c2 = multiply(_column(image, start, y, x + 1, frame, down), across[2])
    c3 = multiply(_column(image, start, y, x + 2, frame, down), across[3])
    return (c0 + c2) + (c1 + c3)


@cuda.jit
def warp(levels, offset, gradients, u, control, coefficients, frame, total, pairs, numbers):
    """Warp every pair's second frame by its flow: write coefficients (pairs, 4, H, W)."""
    cubic, to_pixels, smallest = numbers
    height, width, _ = frame  # and whether its border is repeated
    x, y, pair = cuda.grid(3)
    if x < width and y < height:
        plane = height * width
        at = y * width + x
        source = (control[SIDE_U, pair] * pairs + pair) * 2 * plane + at
        u1, u2 = u[source], u[source + plane]
        lowest = np.float32(1 - BORDER)
        to_x = np.float32(x) + multiply(u1 - REST, to_pixels)
        to_y = np.float32(y) + multiply(u2 - REST, to_pixels)
        to_x = minimum(maximum(to_x, lowest), np.float32(width + 1))
        to_y = minimum(maximum(to_y, lowest), np.float32(height + 1))
        floor_x, floor_y = floor(to_x), floor(to_y)
        left, top = int(floor_x), int(floor_y)
        across, down = _keys(to_x - floor_x, cubic), _keys(to_y - floor_y, cubic)
        second = (pair + 1) * total + offset
        moved = _bicubic(levels, second, top, left, frame, down, across)
        start = 2 * pair * plane
        gradient_x = _bicubic(gradients, start, top, left, frame, down, across)
        gradient_y = _bicubic(gradients, start + plane, top, left, frame, down, across)
        gradient_x, gradient_y = multiply(gradient_x, to_pixels), multiply(gradient_y, to_pixels)
        square = multiply(gradient_x, gradient_x) + multiply(gradient_y, gradient_y)
        flow = multiply(gradient_x, u1) + multiply(gradient_y, u2)
        out = 4 * pair * plane + at
        coefficients[out], coefficients[out + plane] = gradient_x, gradient_y
        coefficients[out + 2 * plane] = (moved - levels[pair * total + offset + at]) - flow
        inverse = np.float32(0)
        if square > smallest:
            inverse = np.float32(1) / square
        coefficients[out + 3 * plane] = np.float32(0) - inverse


_TRIMS = (median.trim4, median.trim5, median.trim6, median.trim7)
_STEPS = (median.order, median.sort3, median.sort5, *_TRIMS, median.middle_of_ranks)
_selection = on_device(_STEPS, minimum=minimum, maximum=maximum)
_sort3, _sort5, _middle_of_ranks = map(_selection.get, ("sort3", "sort5", "middle_of_ranks"))


@cuda.jit(device=True)
def _sorted_column3(u, start, y, x, size):
    height, width = size
    c = start + min(max(x, 0), width - 1)
    above, below = c + max(y - 1, 0) * width, c + min(y + 1, height - 1) * width
    return _sort3(u[above], u[c + y * width], u[below])


@cuda.jit(device=True)
def _sorted_column5(u, start, y, x, size):
    height, width = size
    c = start + min(max(x, 0), width - 1)
    top, above = u[c + max(y - 2, 0) * width], u[c + max(y - 1, 0) * width]
    below, bottom = u[c + min(y + 1, height - 1) * width], u[c + min(y + 2, height - 1) * width]
    return _sort5(top, above, u[c + y * width], below, bottom)


@cuda.jit
def median_filter(u, state, turn, size, pairs, side):
    """Filter u of the pairs that are due, from their side to the other one."""
    control, _, _, _, lists, counts = state
    height, width = size
    slot = cuda.blockIdx.z
    if slot >= counts[turn]:
        return
    pair = lists[turn, slot]
    x, y = cuda.grid(3)[0], cuda.grid(3)[1]
    if control[FILTER, pair] == 0 or x >= width or y >= height:
        return
    plane = height * width
    for component in range(2):
        start = ((control[SIDE_U, pair] * pairs + pair) * 2 + component) * plane
        if side == 3:
            a = _sorted_column3(u, start, y, x - 1, size)
            b = _sorted_column3(u, start, y, x, size)
            c = _sorted_column3(u, start, y, x + 1, size)
            low = maximum(maximum(a[0], b[0]), c[0])
            high = minimum(minimum(a[2], b[2]), c[2])
            middle = _sort3(low, _sort3(a[1], b[1], c[1])[1], high)[1]
        else:
            a = _sorted_column5(u, start, y, x - 2, size)
            b = _sorted_column5(u, start, y, x - 1, size)
            c = _sorted_column5(u, start, y, x, size)
            d = _sorted_column5(u, start, y, x + 1, size)
            e = _sorted_column5(u, start, y, x + 2, size)
            middle = _middle_of_ranks(
                _sort5(a[0], b[0], c[0], d[0], e[0]),
                _sort5(a[1], b[1], c[1], d[1], e[1]),
                _sort5(a[2], b[2], c[2], d[2], e[2]),
                _sort5(a[3], b[3], c[3], d[3], e[3]),
                _sort5(a[4], b[4], c[4], d[4], e[4]),
            )
        target = (((1 - control[SIDE_U, pair]) * pairs + pair) * 2 + component) * plane
        u[target + y * width + x] = middle
