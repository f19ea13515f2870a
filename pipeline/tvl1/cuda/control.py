"""The progress of each pair of a batch, kept on the device, so that the host need not be asked.

The state is (control, sums, before, tickets, lists, counts). `control` has a row per field and a
column per pair. `lists` and `counts` hold the pairs that still iterate, in three turns: a round
reads one, fills the next and empties the third.
"""

import numpy as np
from numba import cuda

from flowcpc.pipeline.tvl1.cpu import iterate
from flowcpc.pipeline.tvl1.cuda.arithmetic import on_device

# Which of two sides holds a pair's u and p; iterations of the next pass, those before the next
# median filter, and remaining outer iterations; whether the median filter runs before the next
# pass, so that its result is on the other side.
SIDE_U, SIDE_P, PLANNED, LEFT, OUTER, FILTER = range(6)
FIELDS = 6
TURNS = 3


@cuda.jit
def reset_sides(control, pairs):
    """Begin a level: u and p of every pair are on side 0."""
    pair = cuda.grid(1)
    if pair < pairs:
        control[SIDE_U, pair] = 0
        control[SIDE_P, pair] = 0


@cuda.jit
def begin_warp(state, pairs, longest, inner, outer, filters):
    """Begin a warp: every pair iterates."""
    control, sums, before, tickets, lists, counts = state
    pair = cuda.grid(1)
    if pair < pairs:
        control[PLANNED, pair] = min(longest, inner)
        control[LEFT, pair] = inner
        control[OUTER, pair] = outer
        control[FILTER, pair] = filters
        before[pair] = 1
        tickets[pair] = 0
        lists[0, pair] = pair
        for k in range(longest):
            sums[pair, k] = 0
    if pair == 0:
        counts[0], counts[1], counts[2] = pairs, 0, 0


_next_pass = on_device([iterate.next_pass], np=np)["next_pass"]


@cuda.jit(device=True)
def judge(state, turn, pair, limit, longest, inner, filters):
    """Accept a pass of `pair` and plan the next, or replay it up to where it converged."""
    # Sums of other blocks are read by atomics, which bypass the first-level cache.
    control, sums, before, tickets, lists, counts = state
    planned = needed = control[PLANNED, pair]
    converged = False
    for k in range(planned):
        if not converged and cuda.atomic.add(sums, (pair, k), 0) <= limit:
            needed = k + 1
            converged = True
    origin = control[SIDE_U, pair]
    if control[FILTER, pair] == 1:
        origin = 1 - origin
    control[FILTER, pair] = 0
    active = True
    if needed < planned:
        control[SIDE_U, pair] = origin
        control[PLANNED, pair] = needed
    else:
        control[SIDE_U, pair] = 1 - origin
        control[SIDE_P, pair] = 1 - control[SIDE_P, pair]
        left = control[LEFT, pair] - planned
        active = not converged
        last = cuda.atomic.add(sums, (pair, planned - 1), 0)
        ahead = longest
        if left == 0:
            left = inner
            control[OUTER, pair] -= 1
            control[FILTER, pair] = filters
            active = active and control[OUTER, pair] > 0
        else:
            if planned > 1:
                before[pair] = cuda.atomic.add(sums, (pair, planned - 2), 0)
            ahead = _next_pass(before[pair], last, limit, longest)
        before[pair] = last
        control[LEFT, pair] = left
        control[PLANNED, pair] = min(ahead, left)
    tickets[pair] = 0
    for k in range(longest):
        sums[pair, k] = 0
    if active:
        following = (turn + 1) % TURNS
        lists[following, cuda.atomic.add(counts, following, 1)] = pair
