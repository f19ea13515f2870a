"""The iterations of TV-L1 on a CUDA device, several per launch, on tiles in shared memory.

A block loads u and p of a tile and of a halo as wide as the pass has iterations. Every iteration
makes one more ring of the halo stale, until only the tile is valid. The arithmetic and its order
are those of cpu/iterate.py.
"""

import dataclasses
import functools
from typing import Any

import numba
import numpy as np
from numba import cuda

from flowcpc.pipeline.tvl1.constants import LARGEST_COUNT
from flowcpc.pipeline.tvl1.cuda.arithmetic import SIMULATED, maximum, minimum, multiply, square_root
from flowcpc.pipeline.tvl1.cuda.control import FILTER, PLANNED, SIDE_P, SIDE_U, TURNS, judge

_FIELDS = 6
_WARP = 32
_SHARED_BYTES = 48 << 10


@dataclasses.dataclass(frozen=True)
class Tile:
    """Shape of a block's work, which decides the speed and never the flow.

    Raises ValueError for a tile that is too small or too large for 48 KB of shared memory.
    """

    width: int  # px and threads, halo included
    height: int  # px, halo included
    rows: int  # of threads
    iterations: int  # per launch, at most
    registers: int  # per thread, at most

    def __post_init__(self) -> None:
        if min(self.inner) < 1:
            raise ValueError(f"{self} has nothing inside its halo; enlarge it")
        shared = 4 * _FIELDS * self.width * self.height + 8 * self.width * self.rows
        if shared > _SHARED_BYTES:
            raise ValueError(f"{self} needs {shared} bytes of shared memory of {_SHARED_BYTES}")

    @property
    def inner(self) -> tuple[int, int]:
        """Width and height without the halo, px."""
        return self.width - 2 * self.iterations, self.height - 2 * self.iterations


# The simulator runs a Python thread per CUDA thread, so it gets few.
DEFAULT_TILE = Tile(12, 11, 1, 2, 0) if SIMULATED else Tile(64, 28, 7, 3, 72)


@functools.cache
def make_pass(tile: Tile) -> Any:
    """Return the kernel of a pass for `tile`, whose shape is compiled in."""
    tile_width, tile_height, rows, longest = tile.width, tile.height, tile.rows, tile.iterations
    inner_width, inner_height = tile.inner
    threads = tile_width * rows
    options = {} if SIMULATED else {"max_registers": tile.registers or None}

    @cuda.jit(**options)
    def iterate(u, p, coefficients, state, turn, size, numbers, limits):
        control, sums, _, tickets, lists, counts = state
        height, width, pairs, filters = size
        tau, bound, counts_per_unit = numbers
        limit, inner = limits
        shared = cuda.shared.array((_FIELDS, tile_height, tile_width), numba.float32)
        partial = cuda.shared.array(threads, numba.int64)
        column = cuda.threadIdx.x
        thread = cuda.threadIdx.y * tile_width + column
        slot = cuda.blockIdx.z
        if slot == 0 and cuda.blockIdx.x == 0 and cuda.blockIdx.y == 0 and thread == 0:
            counts[(turn + 2) % TURNS] = 0
        if slot >= counts[turn]:
            return
        pair = lists[turn, slot]
        planned = control[PLANNED, pair]
        origin_u = control[SIDE_U, pair]
        if control[FILTER, pair] == 1:
            origin_u = 1 - origin_u
        origin_p = control[SIDE_P, pair]
        plane = height * width
        from_u = (origin_u * pairs + pair) * 2 * plane
        to_u = ((1 - origin_u) * pairs + pair) * 2 * plane
        from_p = (origin_p * pairs + pair) * 4 * plane
        to_p = ((1 - origin_p) * pairs + pair) * 4 * plane
        from_c = pair * 4 * plane
        x = cuda.blockIdx.x * inner_width - longest + column
        top = cuda.blockIdx.y * inner_height - longest
        in_columns = 0 <= x < width
        own_column = in_columns and longest <= column < tile_width - longest
        for row in range(cuda.threadIdx.y, tile_height, rows):
            y = top + row
            inside = in_columns and 0 <= y < height
            at = y * width + x
            for field in range(_FIELDS):
                value = np.float32(0)
                if inside and field < 2:
                    value = u[from_u + field * plane + at]
                elif inside:
                    value = p[from_p + (field - 2) * plane + at]
                shared[field, row, column] = value
        cuda.syncthreads()
        one = np.float32(1)
        for k in range(planned):
            total = 0
            for row in range(cuda.threadIdx.y, tile_height, rows):
                y = top + row
                if in_columns and column > 0 and row > 0 and 0 <= y < height:
                    c = from_c + y * width + x
                    old1, old2 = shared[0, row, column], shared[1, row, column]
                    gradient_x, gradient_y = coefficients[c], coefficients[c + plane]
                    linear = multiply(gradient_x, old1) + multiply(gradient_y, old2)
                    rho = coefficients[c + 2 * plane] + linear
                    step = minimum(multiply(rho, coefficients[c + 3 * plane]), bound)
                    step = maximum(step, -bound)
                    across1 = shared[2, row, column] - shared[2, row, column - 1]
                    down1 = shared[3, row, column] - shared[3, row - 1, column]
                    across2 = shared[4, row, column] - shared[4, row, column - 1]
                    down2 = shared[5, row, column] - shared[5, row - 1, column]
                    new1 = (old1 + multiply(step, gradient_x)) + multiply(tau, across1 + down1)
                    new2 = (old2 + multiply(step, gradient_y)) + multiply(tau, across2 + down2)
                    if own_column and longest <= row < tile_height - longest:
                        change1, change2 = new1 - old1, new2 - old2
                        square = multiply(change1, change1) + multiply(change2, change2)
                        counted = multiply(square, counts_per_unit)
                        total += int(minimum(counted, np.float32(LARGEST_COUNT)))
                    shared[0, row, column] = new1
                    shared[1, row, column] = new2
            partial[thread] = total
            cuda.syncthreads()
            for row in range(cuda.threadIdx.y, tile_height - 1, rows):
                y = top + row
                if in_columns and column < tile_width - 1 and 0 <= y < height:
                    u1, u2 = shared[0, row, column], shared[1, row, column]
                    dx1 = dx2 = dy1 = dy2 = np.float32(0)
                    if x < width - 1:
                        dx1 = shared[0, row, column + 1] - u1
                        dx2 = shared[1, row, column + 1] - u2
                    if y < height - 1:
                        dy1 = shared[0, row + 1, column] - u1
                        dy2 = shared[1, row + 1, column] - u2
                    norm1 = one + square_root(multiply(dx1, dx1) + multiply(dy1, dy1))
                    norm2 = one + square_root(multiply(dx2, dx2) + multiply(dy2, dy2))
                    shared[2, row, column] = (shared[2, row, column] + dx1) / norm1
                    shared[3, row, column] = (shared[3, row, column] + dy1) / norm1
                    shared[4, row, column] = (shared[4, row, column] + dx2) / norm2
                    shared[5, row, column] = (shared[5, row, column] + dy2) / norm2
            if thread < _WARP:
                total = 0
                for other in range(thread, threads, _WARP):
                    total += partial[other]
                cuda.atomic.add(sums, (pair, k), total)
            cuda.syncthreads()
        for row in range(cuda.threadIdx.y, tile_height, rows):
            y = top + row
            if own_column and longest <= row < tile_height - longest and y < height:
                at = y * width + x
                for field in range(2):
                    u[to_u + field * plane + at] = shared[field, row, column]
                for field in range(4):
                    p[to_p + field * plane + at] = shared[field + 2, row, column]
        # The last block of a pair to finish judges it: after the fence, all sums are complete.
        cuda.syncthreads()
        if thread == 0:
            cuda.threadfence()
            blocks = cuda.gridDim.x * cuda.gridDim.y
            if cuda.atomic.add(tickets, pair, 1) == blocks - 1:
                judge(state, turn, pair, limit, longest, inner, filters)

    return iterate
