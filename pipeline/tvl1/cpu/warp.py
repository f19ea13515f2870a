"""Bicubic warping of a frame and its gradient, and the coefficients of the iterations that follow, on the processor.

Frame and gradient lie interleaved (intensity, gradient x, gradient y, 0), so that the four taps of a row are sixteen values side by side.
"""

import numpy as np

from flowcpc.pipeline.tvl1.constants import BORDER, REST
from flowcpc.pipeline.tvl1.cpu.iterate import COEFFICIENT_LINES, STATE_LINES
from flowcpc.pipeline.tvl1.cpu.simd import (
    LANES,
    floor,
    inverse_above,
    load,
    load_interleaved,
    load_spread,
    maximum,
    minimum,
    ramp,
    splat,
    store,
    store_addresses,
    store_folded,
    store_interleaved,
)
from flowcpc.stores.base.compiled import kernel

CHANNELS = 4


@kernel
def interleave(frame, height, width, repeat, out):
    """Write float32 frame (height * width,) and its centred gradient to `out`, (height + 8) x (width + 8) x 4."""
    line = (width + 2 * BORDER) * CHANNELS
    half = np.float32(0.5)
    for row in range(height + 2 * BORDER):
        y = min(max(row - BORDER, 0), height - 1)
        start = row * line
        if not repeat and y != row - BORDER:
            out[start : start + line] = 0
            continue
        above = max(y - 1, 0) * width
        below = min(y + 1, height - 1) * width
        for column in range(width + 2 * BORDER):
            x = min(max(column - BORDER, 0), width - 1)
            i = start + column * CHANNELS
            out[i + 3] = 0
            if repeat or x == column - BORDER:
                out[i] = frame[y * width + x]
                out[i + 1] = half * (
                    frame[y * width + min(x + 1, width - 1)] - frame[y * width + max(x - 1, 0)]
                )
                out[i + 2] = half * (frame[below + x] - frame[above + x])
            else:
                out[i : i + 3] = 0


@kernel
def _keys(near, a, weights, i):
    """Write the four weights of Keys' cubic for one vector of fractions, interleaved; they are made to add up to 1."""
    one = splat(np.float32(1))
    edge = splat(a)
    inner = splat(a + np.float32(2))
    middle = splat(a + np.float32(3))
    outer = near + one
    far = one - near
    w0 = (
        (edge * outer - splat(np.float32(5) * a)) * outer + splat(np.float32(8) * a)
    ) * outer - splat(np.float32(4) * a)
    w1 = (inner * near - middle) * near * near + one
    w2 = (inner * far - middle) * far * far + one
    store_interleaved(weights, i, w0, w1, w2, ((one - w0) - w1) - w2)


@kernel
def warp(
    first, interleaved, state, height, width, stride, numbers, weights, addresses, coefficients
):
    """Warp the interleaved second frame by the flow in `state` and write the coefficients of the iterations.

    first: float32 (height * width + LANES), the first frame and what may follow it. numbers: Keys' parameter, theta / tau,
    the smallest |gradient|^2 of a data term. weights, addresses: scratch of 12 float32, zero at first, and 1 int32 a pixel of a row.
    """
    cubic, to_pixels, smallest = numbers
    vectors = stride - LANES
    line = (width + 2 * BORDER) * CHANNELS
    start = (BORDER - 1) * (line + CHANNELS)
    lowest = splat(np.float32(1 - BORDER))
    right, bottom = splat(np.float32(width + 1)), splat(np.float32(height + 1))
    pixels = splat(to_pixels)
    limit = splat(smallest)
    nothing = splat(np.float32(0))
    rest = splat(REST)
    down = 4 * vectors
    taps = 8 * vectors
    for y in range(height):
        u = (y + 1) * STATE_LINES * stride
        for x in range(0, vectors, LANES):
            to_x = (splat(np.float32(x)) + ramp()) + (load(state, u + x) - rest) * pixels
            to_y = splat(np.float32(y)) + (load(state, u + stride + x) - rest) * pixels
            to_x = minimum(maximum(to_x, lowest), right)
            to_y = minimum(maximum(to_y, lowest), bottom)
            floor_x, floor_y = floor(to_x), floor(to_y)
            _keys(to_x - floor_x, cubic, weights, 4 * x)
            _keys(to_y - floor_y, cubic, weights, down + 4 * x)
            store_addresses(addresses, x, floor_y, floor_x, np.int32(line), np.int32(CHANNELS))
        for x in range(width):
            i = start + addresses[x]
            w = down + 4 * x
            column = splat(weights[w]) * load(interleaved, i)
            column = column + splat(weights[w + 1]) * load(interleaved, i + line)
            column = column + splat(weights[w + 2]) * load(interleaved, i + 2 * line)
            column = column + splat(weights[w + 3]) * load(interleaved, i + 3 * line)
            store_folded(weights, taps + CHANNELS * x, column * load_spread(weights, 4 * x))
        c = y * COEFFICIENT_LINES * stride
        for x in range(0, vectors, LANES):
            moved, gradient_x, gradient_y, _ = load_interleaved(weights, taps + CHANNELS * x)
            gradient_x = gradient_x * pixels
            gradient_y = gradient_y * pixels
            square = gradient_x * gradient_x + gradient_y * gradient_y
            # First the frames, then the flow, as one sum: so a pixel at rest between equal frames has a residual of exactly 0.
            flow = gradient_x * load(state, u + x) + gradient_y * load(state, u + stride + x)
            store(coefficients, c + x, gradient_x)
            store(coefficients, c + stride + x, gradient_y)
            store(coefficients, c + 2 * stride + x, (moved - load(first, y * width + x)) - flow)
            store(coefficients, c + 3 * stride + x, nothing - inverse_above(square, limit))
