"""The iterations of TV-L1 on the processor: the threshold step of u, then the dual step of p, until u stands still.

Flow counts in theta/tau px, in which the dual step is p <- (p + grad u) / (1 + |grad u|), and a pixel at rest has u = REST (constants.py).

State of a level, float32, rows one after the other, each six lines of `stride` values: u1, u2, p11, p12, p21, p22. One line holds `width`
pixels, rounded up to whole vectors, and one vector of padding. A row of zeros lies before the image. So the pixel left of the first one, and
the row above it, hold p = 0; u is copied to the pixel right of the last one, which makes its forward difference 0.
Coefficients of a warp: four lines a row: gradient x, gradient y, residual rho at u = 0, and -1/|gradient|^2.

A pass takes the image from one state to another and does several iterations in one sweep: each follows one row behind the iteration before
it, so the rows in hand stay in the fast caches. The states swap roles; when the iteration that converged lies inside the pass, it is replayed
from the state that still holds the beginning, up to that iteration exactly.
"""

import numpy as np

from flowcpc.pipeline.tvl1.cpu.median import median_filter
from flowcpc.pipeline.tvl1.cpu.simd import (
    LANES,
    count,
    counted,
    load,
    maximum,
    minimum,
    no_count,
    splat,
    sqrt,
    store,
)
from flowcpc.stores.base.compiled import kernel

STATE_LINES = 6
COEFFICIENT_LINES = 4
# Long enough to divide the memory traffic by four, short enough that a replay costs little.
LONGEST_PASS = 4


@kernel
def line_stride(width):
    """Values from one line to the next: whole vectors of pixels and one vector of padding."""
    return (width + LANES - 1) // LANES * LANES + LANES


@kernel
def _primal_vector(coefficients, c, state, s, stride, above12, above22, tau, bound):
    """Old and new u of one vector of pixels; above12, above22 are p12, p22 of the row above."""
    old1 = load(state, s)
    old2 = load(state, s + stride)
    gradient_x = load(coefficients, c)
    gradient_y = load(coefficients, c + stride)
    rho = load(coefficients, c + 2 * stride) + (gradient_x * old1 + gradient_y * old2)
    k = maximum(minimum(rho * load(coefficients, c + 3 * stride), splat(bound)), splat(-bound))
    p1 = s + 2 * stride
    divergence1 = (load(state, p1) - load(state, p1 - 1)) + (load(state, p1 + stride) - above12)
    p2 = s + 4 * stride
    divergence2 = (load(state, p2) - load(state, p2 - 1)) + (load(state, p2 + stride) - above22)
    new1 = (old1 + k * gradient_x) + splat(tau) * divergence1
    new2 = (old2 + k * gradient_y) + splat(tau) * divergence2
    return old1, old2, new1, new2


@kernel
def _dual_vector(source, target, s, stride, u, p12, p22, dy1, dy2):
    """Write p of one vector of pixels whose new u is u[0], u[1] and whose old p12, p22 and vertical differences of u
    are at hand.
    """
    dx1 = load(target, s + 1) - u[0]
    dx2 = load(target, s + stride + 1) - u[1]
    one = splat(np.float32(1))
    norm1 = one + sqrt(dx1 * dx1 + dy1 * dy1)
    norm2 = one + sqrt(dx2 * dx2 + dy2 * dy2)
    store(target, s + 2 * stride, (load(source, s + 2 * stride) + dx1) / norm1)
    store(target, s + 3 * stride, (p12 + dy1) / norm1)
    store(target, s + 4 * stride, (load(source, s + 4 * stride) + dx2) / norm2)
    store(target, s + 5 * stride, (p22 + dy2) / norm2)


@kernel
def _row(coefficients, source, target, y, height, stride, tau, bound, weights):
    """New u of row y and new p of row y - 1; return the weighted squared update of u. Row `height` has no u."""
    row = STATE_LINES * stride
    here = (y + 1) * row
    up = here - row
    total = no_count()
    for x in range(0, stride - LANES, LANES):
        above12 = load(source, up + 3 * stride + x)
        above22 = load(source, up + 5 * stride + x)
        if y < height:
            old1, old2, new1, new2 = _primal_vector(
                coefficients,
                COEFFICIENT_LINES * stride * y + x,
                source,
                here + x,
                stride,
                above12,
                above22,
                tau,
                bound,
            )
            change1 = new1 - old1
            change2 = new2 - old2
            total = count(total, (change1 * change1 + change2 * change2) * load(weights, x))
            store(target, here + x, new1)
            store(target, here + stride + x, new2)
            if y > 0:
                u = (load(target, up + x), load(target, up + stride + x))
                _dual_vector(
                    source, target, up + x, stride, u, above12, above22, new1 - u[0], new2 - u[1]
                )
        else:
            u = (load(target, up + x), load(target, up + stride + x))
            none = u[0] - u[0]
            _dual_vector(source, target, up + x, stride, u, above12, above22, none, none)
    return counted(total)


@kernel
def _pass(coefficients, source, target, height, width, tau, bound, weights, iterations, updates):
    """Take `source` through `iterations` iterations into `target`; updates[k] becomes iteration k's squared update."""
    stride = line_stride(width)
    updates[:iterations] = 0
    for step in range(height + iterations):
        for k in range(iterations):
            y = step - k
            if 0 <= y <= height:
                origin = source if k == 0 else target
                updates[k] += _row(
                    coefficients, origin, target, y, height, stride, tau, bound, weights
                )
                if y < height:
                    last = (y + 1) * STATE_LINES * stride + width - 1
                    target[last + 1] = target[last]
                    target[last + stride + 1] = target[last + stride]


@kernel
def next_pass(before, last, limit, longest):
    """Iterations until the update, which fell from `before` to `last` in one of them, has fallen to `limit`: a guess
    that saves replays and decides nothing.
    """
    value = np.float32(last)
    ratio = value / np.float32(max(before, last, 1))
    ahead = 1
    while ahead < longest and value * ratio > limit:
        value *= ratio
        ahead += 1
    return ahead


@kernel
def relax(coefficients, first, second, height, width, settings, weights, scratch):
    """Iterate one warp from state `first`; return (state that holds the result, the other one, iterations, medians).

    settings: tau, bound of k, limit of the squared update (as `weights` counts it), inner and outer iterations, side of the median.
    """
    tau, bound, limit, inner, outer, median = settings
    updates = np.empty(LONGEST_PASS, np.int64)
    done = 0
    for turn in range(outer):
        median_filter(
            first,
            height,
            width,
            line_stride(width),
            STATE_LINES * line_stride(width),
            median,
            scratch,
        )
        left = inner
        ahead = LONGEST_PASS
        before = np.int64(1)
        while left > 0:
            iterations = min(ahead, left)
            _pass(
                coefficients, first, second, height, width, tau, bound, weights, iterations, updates
            )
            needed = iterations
            for k in range(iterations):
                if updates[k] <= limit:
                    needed = k + 1
                    break
            last = updates[needed - 1]
            if needed < iterations:
                _pass(
                    coefficients, first, second, height, width, tau, bound, weights, needed, updates
                )
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
