"""Median filter of the flow on the processor, 3x3 or 5x5, with repeated borders.

All pixels of a row share columns that are sorted once; then ranks are compared across columns. In a
block of 5x5 values with sorted columns and rows only thirteen can be the median: every other one
has more than twelve values on one side. The compiler drops exchanges whose results are not used.
"""

from flowcpc.pipeline.tvl1.cpu.simd import LANES, load, maximum, minimum, store
from flowcpc.stores.base.compiled import kernel

MARGIN = LANES


@kernel
def scratch_size(height, width):
    """Return the float32 values that `median_filter` needs: a plane and five sorted lines."""
    stride = (width + LANES - 1) // LANES * LANES + 2 * MARGIN
    return (height + 4) * stride + 5 * stride


@kernel
def order(a, b):
    """Return the smaller and the larger value."""
    return minimum(a, b), maximum(a, b)


@kernel
def sort3(a, b, c):
    """Return three values in order."""
    a, b = order(a, b)
    b, c = order(b, c)
    a, b = order(a, b)
    return a, b, c


@kernel
def sort5(a, b, c, d, e):
    """Return five values in order, by nine exchanges, the fewest possible."""
    (a, b), (d, e) = order(a, b), order(d, e)
    c, e = order(c, e)
    (c, d), (b, e) = order(c, d), order(b, e)
    a, d = order(a, d)
    (a, c), (b, d) = order(a, c), order(b, d)
    b, c = order(b, c)
    return a, b, c, d, e


# trim4 to trim7 return their values without the smallest and the largest.


@kernel
def trim4(a, b, c, d):
    (a, b), (c, d) = order(a, b), order(c, d)
    return maximum(a, c), minimum(b, d)


@kernel
def trim5(a, b, c, d, e):
    (a, b), (c, d) = order(a, b), order(c, d)
    (a, c), (b, d) = order(a, c), order(b, d)
    return b, c, minimum(d, maximum(a, e))


@kernel
def trim6(a, b, c, d, e, f):
    (a, b), (c, d) = order(a, b), order(c, d)
    (a, c), (b, d) = order(a, c), order(b, d)
    e, f = order(e, f)
    return b, c, maximum(a, e), minimum(d, f)


@kernel
def trim7(a, b, c, d, e, f, g):
    (a, b), (c, d) = order(a, b), order(c, d)
    (a, c), (b, d) = order(a, c), order(b, d)
    e, f = order(e, f)
    a, e = order(a, e)
    f, d = order(f, d)
    return b, c, e, f, minimum(d, maximum(a, g))


@kernel
def _median9(ranks, i, stride):
    """Return medians of 3x3 values from three sorted lines."""
    low = maximum(maximum(load(ranks, i - 1), load(ranks, i)), load(ranks, i + 1))
    i += stride
    middle = sort3(load(ranks, i - 1), load(ranks, i), load(ranks, i + 1))[1]
    i += stride
    high = minimum(minimum(load(ranks, i - 1), load(ranks, i)), load(ranks, i + 1))
    return sort3(low, middle, high)[1]


@kernel
def _rank(ranks, i):
    """Return five neighbours of one rank in order."""
    a, b, c = load(ranks, i - 2), load(ranks, i - 1), load(ranks, i)
    return sort5(a, b, c, load(ranks, i + 1), load(ranks, i + 2))


@kernel
def middle_of_ranks(a, b, c, d, e):
    """Return the median of 25 values from sorted tuples: the columns' smallest to their largest."""
    # Of eight of the thirteen, the smallest is a[3], b[2] or c[1], the largest c[3] or b[4]:
    # neither can be the median. Then one more joins for every two that leave.
    least, b2 = order(a[3], b[2])
    c1 = maximum(least, c[1])
    c3 = minimum(c[3], b[4])
    v = trim7(a[4], b2, b[3], c1, c[2], c3, d[0])
    w = trim6(v[0], v[1], v[2], v[3], v[4], d[1])
    x = trim5(w[0], w[1], w[2], w[3], d[2])
    y = trim4(x[0], x[1], x[2], e[0])
    return sort3(y[0], y[1], e[1])[1]


@kernel
def _median25(ranks, i, stride):
    """Return medians of 5x5 values from five sorted lines."""
    a, b, c = _rank(ranks, i), _rank(ranks, i + stride), _rank(ranks, i + 2 * stride)
    return middle_of_ranks(a, b, c, _rank(ranks, i + 3 * stride), _rank(ranks, i + 4 * stride))


@kernel
def median_filter(state, size, stride, row, side, scratch):
    """Filter u1 and u2 of a state in place; rows are `row` values apart, `side` is 1, 3 or 5."""
    if side == 1:
        return
    (height, width), reach = size, side // 2
    vectors = (width + LANES - 1) // LANES * LANES
    line = vectors + 2 * MARGIN
    ranks = scratch[(height + 4) * line :]
    for component in range(2):
        for y in range(-reach, height + reach):
            origin = (min(max(y, 0), height - 1) + 1) * row + component * stride
            start = (y + reach) * line + MARGIN
            scratch[start : start + width] = state[origin : origin + width]
            for x in range(reach):
                scratch[start - 1 - x] = state[origin]
                scratch[start + width + x] = state[origin + width - 1]
        for y in range(height):
            for x in range(0, line, LANES):
                i = y * line + x
                a, b, c = load(scratch, i), load(scratch, i + line), load(scratch, i + 2 * line)
                if side == 3:
                    a, b, c = sort3(a, b, c)
                else:
                    d, e = load(scratch, i + 3 * line), load(scratch, i + 4 * line)
                    a, b, c, d, e = sort5(a, b, c, d, e)
                    store(ranks, x + 3 * line, d)
                    store(ranks, x + 4 * line, e)
                store(ranks, x, a)
                store(ranks, x + line, b)
                store(ranks, x + 2 * line, c)
            target = (y + 1) * row + component * stride
            for x in range(0, vectors, LANES):
                i = MARGIN + x
                median = _median9(ranks, i, line) if side == 3 else _median25(ranks, i, line)
                store(state, target + x, median)
