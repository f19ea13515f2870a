"""Bicubic warping on the processor, which gives the coefficients of the iterations.

Frame and gradient lie interleaved (intensity, gradient x, gradient y, 0), so that the four taps of
a row are sixteen adjacent values.
"""

import numpy as np

from flowcpc.pipeline.tvl1.constants import BORDER, REST
from flowcpc.pipeline.tvl1.cpu import simd
from flowcpc.pipeline.tvl1.cpu.iterate import COEFFICIENT_LINES, STATE_LINES, line_stride
from flowcpc.pipeline.tvl1.cpu.simd import LANES, load, maximum, minimum, multiply, splat, store
from flowcpc.stores.base.compiled import kernel

CHANNELS = 4


@kernel
def interleave(frame, size, repeat, out):
    """Write a float32 frame and its centred gradient to `out`, (height + 8) x (width + 8) x 4."""
    height, width = size
    line = (width + 2 * BORDER) * CHANNELS
    half = np.float32(0.5)
    out[: (height + 2 * BORDER) * line] = 0
    for row in range(height + 2 * BORDER):
        y = min(max(row - BORDER, 0), height - 1)
        above, below = max(y - 1, 0) * width, min(y + 1, height - 1) * width
        for column in range(width + 2 * BORDER):
            x = min(max(column - BORDER, 0), width - 1)
            i = row * line + column * CHANNELS
            if repeat or (x == column - BORDER and y == row - BORDER):
                out[i] = frame[y * width + x]
                left, right = max(x - 1, 0), min(x + 1, width - 1)
                out[i + 1] = half * (frame[y * width + right] - frame[y * width + left])
                out[i + 2] = half * (frame[below + x] - frame[above + x])


@kernel
def keys(near, a):
    """Return the four weights of Keys' cubic for a vector of fractions; their sum is made 1."""
    one = splat(np.float32(1))
    outer, far = near + one, one - near
    inner, middle = a + splat(np.float32(2)), a + splat(np.float32(3))
    w0 = multiply(multiply(a, outer) - multiply(splat(np.float32(5)), a), outer)
    w0 = w0 + multiply(splat(np.float32(8)), a)
    w0 = multiply(w0, outer) - multiply(splat(np.float32(4)), a)
    w1 = multiply(multiply(multiply(inner, near) - middle, near), near) + one
    w2 = multiply(multiply(multiply(inner, far) - middle, far), far) + one
    return w0, w1, w2, ((one - w0) - w1) - w2


@kernel
def warp(first, interleaved, state, size, numbers, scratch, coefficients):
    """Warp the interleaved second frame by the flow in `state`; write the coefficients.

    first: float32 (height * width + LANES), the first frame and anything after it. numbers: Keys'
    parameter, theta / tau, the smallest |gradient|^2 of a data term. scratch: 12 float32, zero at
    first, and 1 int32 per value of a line.
    """
    height, width = size
    stride = line_stride(width)
    cubic, to_pixels, smallest = numbers
    weights, addresses = scratch
    vectors, line = stride - LANES, (width + 2 * BORDER) * CHANNELS
    start = (BORDER - 1) * (line + CHANNELS)
    lowest, nothing, rest = splat(np.float32(1 - BORDER)), splat(np.float32(0)), splat(REST)
    right, bottom = splat(np.float32(width + 1)), splat(np.float32(height + 1))
    pixels, limit, edge = splat(to_pixels), splat(smallest), splat(cubic)
    down, taps = 4 * vectors, 8 * vectors
    for y in range(height):
        u = (y + 1) * STATE_LINES * stride
        for x in range(0, vectors, LANES):
            to_x = (splat(np.float32(x)) + simd.ramp()) + (load(state, u + x) - rest) * pixels
            to_y = splat(np.float32(y)) + (load(state, u + stride + x) - rest) * pixels
            to_x = minimum(maximum(to_x, lowest), right)
            to_y = minimum(maximum(to_y, lowest), bottom)
            floor_x, floor_y = simd.floor(to_x), simd.floor(to_y)
            simd.store_interleaved(weights, 4 * x, *keys(to_x - floor_x, edge))
            simd.store_interleaved(weights, down + 4 * x, *keys(to_y - floor_y, edge))
            simd.store_addresses(addresses, x, floor_y, floor_x, line, CHANNELS)
        for x in range(width):
            i = start + addresses[x]
            w = down + 4 * x
            column = splat(weights[w]) * load(interleaved, i)
            column = column + splat(weights[w + 1]) * load(interleaved, i + line)
            column = column + splat(weights[w + 2]) * load(interleaved, i + 2 * line)
            column = column + splat(weights[w + 3]) * load(interleaved, i + 3 * line)
            column = column * simd.load_spread(weights, 4 * x)
            simd.store_folded(weights, taps + CHANNELS * x, column)
        c = y * COEFFICIENT_LINES * stride
        for x in range(0, vectors, LANES):
            moved, gradient_x, gradient_y, _ = simd.load_interleaved(weights, taps + CHANNELS * x)
            gradient_x, gradient_y = gradient_x * pixels, gradient_y * pixels
            square = gradient_x * gradient_x + gradient_y * gradient_y
            # First the frames, then the flow, as one sum: a pixel at rest between equal frames
            # then has a residual of exactly 0.
            flow = gradient_x * load(state, u + x) + gradient_y * load(state, u + stride + x)
            store(coefficients, c + x, gradient_x)
            store(coefficients, c + stride + x, gradient_y)
            store(coefficients, c + 2 * stride + x, (moved - load(first, y * width + x)) - flow)
            store(coefficients, c + 3 * stride + x, nothing - simd.inverse_above(square, limit))
