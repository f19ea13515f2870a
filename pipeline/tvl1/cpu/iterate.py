"""The iterations of TV-L1 on the processor: threshold step of u, dual step of p, until u converges.

Flow counts in theta/tau px, in which the dual step is p <- (p + grad u) / (1 + |grad u|), and a
pixel at rest has u = REST (constants.py).

The state of a level, float32, has a row of zeros and then the rows of the image, each six lines of
`stride` values: u1, u2, p11, p12, p21, p22. A line holds `width` pixels, rounded up to whole
vectors, and one vector of padding. So the pixel left of the first one, and the row above it, have
p = 0; u is copied to the pixel right of the last one, which makes its forward difference 0. The
coefficients of a warp have four lines per row: gradient x and y, residual rho at u = 0, and
-1/|gradient|^2.

A pass takes the image from one state to another and does several iterations in one sweep, each one
row behind the one before, so that their rows stay in the fast caches. Then the states swap roles.
If an iteration inside the pass converged, the pass is replayed from the old state up to it.
"""

import numpy as np

from flowcpc.pipeline.tvl1.cpu import simd
from flowcpc.pipeline.tvl1.cpu.median import median_filter
from flowcpc.pipeline.tvl1.cpu.simd import LANES, load, maximum, minimum, splat, sqrt, store
from flowcpc.stores.base.compiled import kernel

STATE_LINES = 6
COEFFICIENT_LINES = 4
# Long enough to divide the memory traffic by four, short enough that a replay costs little.
LONGEST_PASS = 4


@kernel
def line_stride(width):
    """Return the values of a line: whole vectors of pixels and one vector of padding."""
    return (width + LANES - 1) // LANES * LANES + LANES


@kernel
def _primal_vector(coefficients, c, state, s, stride, above, step):
    """Return old and new u of one vector of pixels; `above` are p12, p22 of the row above."""
    tau, bound = step
    old1, old2 = load(state, s), load(state, s + stride)
    gradient_x, gradient_y = load(coefficients, c), load(coefficients, c + stride)
    rho = load(coefficients, c + 2 * stride) + (gradient_x * old1 + gradient_y * old2)
    k = maximum(minimum(rho * load(coefficients, c + 3 * stride), splat(bound)), splat(-bound))
    p1 = s + 2 * stride
    divergence1 = (load(state, p1) - load(state, p1 - 1)) + (load(state, p1 + stride) - above[0])
    p2 = s + 4 * stride
    divergence2 = (load(state, p2) - load(state, p2 - 1)) + (load(state, p2 + stride) - above[1])
    new1 = (old1 + k * gradient_x) + splat(tau) * divergence1
    new2 = (old2 + k * gradient_y) + splat(tau) * divergence2
    return old1, old2, new1, new2


@kernel
def _dual_vector(source, target, s, stride, u, old, dy1, dy2):
    """Write p of one vector of pixels: new `u`, `old` p12 and p22, vertical differences of u."""
    dx1 = load(target, s + 1) - u[0]
    dx2 = load(target, s + stride + 1) - u[1]
    one = splat(np.float32(1))
    norm1 = one + sqrt(dx1 * dx1 + dy1 * dy1)
    norm2 = one + sqrt(dx2 * dx2 + dy2 * dy2)
    store(target, s + 2 * stride, (load(source, s + 2 * stride) + dx1) / norm1)
    store(target, s + 3 * stride, (old[0] + dy1) / norm1)
    store(target, s + 4 * stride, (load(source, s + 4 * stride) + dx2) / norm2)
    store(target, s + 5 * stride, (old[1] + dy2) / norm2)


@kernel
def _row(coefficients, source, target, y, height, stride, step, weights):
    """Compute u of row y < height and p of row y - 1; return u's weighted squared update."""
    here, up = (y + 1) * STATE_LINES * stride, y * STATE_LINES * stride
    total = simd.no_count()
    for x in range(0, stride - LANES, LANES):
        above = load(source, up + 3 * stride + x), load(source, up + 5 * stride + x)
        u = load(target, up + x), load(target, up + stride + x)
        if y < height:
            c = COEFFICIENT_LINES * stride * y + x
            update = _primal_vector(coefficients, c, source, here + x, stride, above, step)
            old1, old2, new1, new2 = update
            change1, change2 = new1 - old1, new2 - old2
            square = (change1 * change1 + change2 * change2) * load(weights, x)
            total = simd.count(total, square)
            store(target, here + x, new1)
            store(target, here + stride + x, new2)
            if y > 0:
                _dual_vector(source, target, up + x, stride, u, above, new1 - u[0], new2 - u[1])
        else:
            none = u[0] - u[0]
            _dual_vector(source, target, up + x, stride, u, above, none, none)
    return simd.counted(total)


@kernel
def _pass(coefficients, source, target, size, step, weights, iterations, updates):
    """Take `source` through `iterations` into `target`; updates[k] is iteration k's squared one."""
    height, width = size
    stride = line_stride(width)
    updates[:iterations] = 0
    for first in range(height + iterations):
        for k in range(iterations):
            y = first - k
            if 0 <= y <= height:
                origin = source if k == 0 else target
                updates[k] += _row(coefficients, origin, target, y, height, stride, step, weights)
                if y < height:
                    last = (y + 1) * STATE_LINES * stride + width - 1
                    target[last + 1] = target[last]
                    target[last + stride + 1] = target[last + stride]


@kernel
def next_pass(before, last, limit, longest):
    """Guess the iterations until the update, which fell from `before`, is at `limit`."""
    value = np.float32(last)
    ratio = value / np.float32(max(before, last, 1))
    ahead = 1
    while ahead < longest and value * ratio > limit:
        value *= ratio
        ahead += 1
    return ahead


@kernel
def relax(coefficients, first, second, size, settings, weights, scratch):
    """Iterate one warp from the state `first`; return (result, other state, iterations, medians).

    settings: tau, bound of k, limit of the squared update (as `weights` counts it), inner and outer
    iterations, side of the median.
    """
    tau, bound, limit, inner, outer, median = settings
    step = tau, bound
    stride, done = line_stride(size[1]), 0
    updates = np.empty(LONGEST_PASS, np.int64)
    for turn in range(outer):
        median_filter(first, size, stride, STATE_LINES * stride, median, scratch)
        left, ahead, before = inner, LONGEST_PASS, np.int64(1)
        while left > 0:
            iterations = min(ahead, left)
            _pass(coefficients, first, second, size, step, weights, iterations, updates)
            needed = iterations
            for k in range(iterations):
                if updates[k] <= limit:
                    needed = k + 1
                    break
            last = updates[needed - 1]
            if needed < iterations:
                _pass(coefficients, first, second, size, step, weights, needed, updates)
            elif iterations > 1:
                before = updates[iterations - 2]
            first, second = second, first
            done += needed
            if last <= limit:
                return first, second, done, turn + 1
            left -= needed
            ahead = next_pass(before, last, limit, LONGEST_PASS)
            before = last
    return first, second, done, outer
