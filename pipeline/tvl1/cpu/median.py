"""Median filter of the flow, 3x3 or 5x5, borders repeated, on the processor.

Columns are sorted first, and all pixels of a row share them; then the ranks across the columns. In a block of 5x5 values whose columns and rows
are sorted only thirteen can be the median: every other one has more than twelve values on one side. The exchanges whose results nothing
uses are dropped by the compiler.
"""

from flowcpc.pipeline.tvl1.cpu.simd import LANES, load, maximum, minimum, store
from flowcpc.stores.base.compiled import kernel

MARGIN = LANES


@kernel
def scratch_size(height, width):
    """float32 values that `median_filter` needs: a plane with margins and five sorted lines."""
    stride = (width + LANES - 1) // LANES * LANES + 2 * MARGIN
    return (height + 4) * stride + 5 * stride


@kernel
def sort3(a, b, c):
    a, b = minimum(a, b), maximum(a, b)
    b, c = minimum(b, c), maximum(b, c)
    a, b = minimum(a, b), maximum(a, b)
    return a, b, c


@kernel
def sort5(a, b, c, d, e):
    """Nine exchanges, the least that sort five values."""
    a, b = minimum(a, b), maximum(a, b)
    d, e = minimum(d, e), maximum(d, e)
    c, e = minimum(c, e), maximum(c, e)
    c, d = minimum(c, d), maximum(c, d)
    b, e = minimum(b, e), maximum(b, e)
    a, d = minimum(a, d), maximum(a, d)
    a, c = minimum(a, c), maximum(a, c)
    b, d = minimum(b, d), maximum(b, d)
    b, c = minimum(b, c), maximum(b, c)
    return a, b, c, d, e


@kernel
def trim4(a, b, c, d):
    """Two values: the smallest and the largest of four are left out."""
    a, b = minimum(a, b), maximum(a, b)
    c, d = minimum(c, d), maximum(c, d)
    return maximum(a, c), minimum(b, d)


@kernel
def trim5(a, b, c, d, e):
    a, b = minimum(a, b), maximum(a, b)
    c, d = minimum(c, d), maximum(c, d)
    a, c = minimum(a, c), maximum(a, c)
    b, d = minimum(b, d), maximum(b, d)
    e = maximum(a, e)
    e = minimum(d, e)
    return b, c, e


@kernel
def trim6(a, b, c, d, e, f):
    a, b = minimum(a, b), maximum(a, b)
    c, d = minimum(c, d), maximum(c, d)
    e, f = minimum(e, f), maximum(e, f)
    a, c = minimum(a, c), maximum(a, c)
    b, d = minimum(b, d), maximum(b, d)
    return b, c, maximum(a, e), minimum(d, f)


@kernel
def trim7(a, b, c, d, e, f, g):
    a, b = minimum(a, b), maximum(a, b)
    c, d = minimum(c, d), maximum(c, d)
    e, f = minimum(e, f), maximum(e, f)
    a, c = minimum(a, c), maximum(a, c)
    a, e = minimum(a, e), maximum(a, e)
    b, d = minimum(b, d), maximum(b, d)
    f, d = minimum(f, d), maximum(f, d)
    return b, c, e, f, minimum(d, maximum(a, g))


@kernel
def _median9(ranks, i, stride):
    """Medians of 3x3 from three sorted lines."""
    low = maximum(maximum(load(ranks, i - 1), load(ranks, i)), load(ranks, i + 1))
    i += stride
    middle = sort3(load(ranks, i - 1), load(ranks, i), load(ranks, i + 1))[1]
    i += stride
    high = minimum(minimum(load(ranks, i - 1), load(ranks, i)), load(ranks, i + 1))
    return sort3(low, middle, high)[1]


@kernel
def _rank(ranks, i):
    """Five neighbours of one rank, sorted."""
    return sort5(
        load(ranks, i - 2),
        load(ranks, i - 1),
        load(ranks, i),
        load(ranks, i + 1),
        load(ranks, i + 2),
    )


@kernel
def middle_of_ranks(a, b, c, d, e):
    """The median of 25 values from five sorted tuples: the smallest of every column, the second smallest and so on."""
    # Of eight of the thirteen, the smallest is a[3], b[2] or c[1], the largest c[3] or b[4]: neither can be the median. Then one more comes
    # in for every two that leave.
    least = minimum(a[3], b[2])
    b2 = maximum(a[3], b[2])
    c1 = maximum(least, c[1])
    c3 = minimum(c[3], b[4])
    v = trim7(a[4], b2, b[3], c1, c[2], c3, d[0])
    w = trim6(v[0], v[1], v[2], v[3], v[4], d[1])
    x = trim5(w[0], w[1], w[2], w[3], d[2])
    y = trim4(x[0], x[1], x[2], e[0])
    return sort3(y[0], y[1], e[1])[1]


@kernel
def _median25(ranks, i, stride):
    """Medians of 5x5 from five sorted lines."""
    return middle_of_ranks(
        _rank(ranks, i),
        _rank(ranks, i + stride),
        _rank(ranks, i + 2 * stride),
        _rank(ranks, i + 3 * stride),
        _rank(ranks, i + 4 * stride),
    )


@kernel
def median_filter(state, height, width, stride, row, side, scratch):
    """Filter, in place, the two lines u1 and u2 of every row of a state whose rows are `row` values apart; `side` is 1,
    3 or 5.
    """
    if side == 1:
        return
    reach = side // 2
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
                a = load(scratch, i)
                b = load(scratch, i + line)
                c = load(scratch, i + 2 * line)
                if side == 3:
                    sorted3 = sort3(a, b, c)
                    store(ranks, x, sorted3[0])
                    store(ranks, x + line, sorted3[1])
                    store(ranks, x + 2 * line, sorted3[2])
                else:
                    sorted5 = sort5(
                        a, b, c, load(scratch, i + 3 * line), load(scratch, i + 4 * line)
                    )
                    store(ranks, x, sorted5[0])
                    store(ranks, x + line, sorted5[1])
                    store(ranks, x + 2 * line, sorted5[2])
                    store(ranks, x + 3 * line, sorted5[3])
                    store(ranks, x + 4 * line, sorted5[4])
            target = (y + 1) * row + component * stride
            for x in range(0, vectors, LANES):
                i = MARGIN + x
                store(
                    state,
                    target + x,
                    _median9(ranks, i, line) if side == 3 else _median25(ranks, i, line),
                )
