"""TV-L1 on the processor: one compiled function solves a pair, and threads share the pairs of a block of frames."""

import concurrent.futures
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flowcpc.pipeline.tvl1.constants import BORDER, REST, make_constants
from flowcpc.pipeline.tvl1.cpu.iterate import COEFFICIENT_LINES, STATE_LINES, line_stride, relax
from flowcpc.pipeline.tvl1.cpu.median import scratch_size
from flowcpc.pipeline.tvl1.cpu.resize import build_levels, resize
from flowcpc.pipeline.tvl1.cpu.simd import LANES
from flowcpc.pipeline.tvl1.cpu.warp import CHANNELS, interleave, warp
from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
from flowcpc.pipeline.tvl1.pyramid import Pyramid, make_pyramid
from flowcpc.stores.base.compiled import kernel

Floats = NDArray[np.float32]
# Pyramids of one block of frames; more of them at a time would cost memory and gain nothing.
_BLOCK_BYTES = 64 << 20
_CACHE_LINE = 64


def compute_flow(frames: NDArray[np.uint8], parameters: TVL1Parameters, threads: int) -> Floats:
    """Return flow between consecutive frames, uint8 (T, H, W) -> float32 (T-1, 2, H, W) px, on up to `threads` threads.

    The result does not depend on `threads`, nor on the other frames of a pair's block.
    """
    pyramid = make_pyramid(*frames.shape[1:], parameters)
    solve_pair = pair_solver(pyramid, parameters)
    flow = np.empty((len(frames) - 1, 2, *frames.shape[1:]), np.float32)
    threads = min(threads, len(flow))
    rooms = [Room(pyramid) for _ in range(threads)]
    total = int(pyramid.offsets[-1])
    step = max(threads, _BLOCK_BYTES // (4 * total))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(flow), step):
            block = frames[start : start + step + 1]
            levels = np.zeros(
                (len(block), total + LANES), np.float32
            )  # whole vectors may be read past the end

            def build(t: int, block: NDArray[np.uint8] = block, levels: Floats = levels) -> None:
                tables = pyramid.down_index, pyramid.down_fraction
                build_levels(block[t], pyramid.sizes, pyramid.offsets, *tables, levels[t])

            def solve(t: int, start: int = start, levels: Floats = levels) -> None:
                room = rooms.pop()
                solve_pair(levels[t], levels[t + 1], room, flow[start + t])
                rooms.append(room)

            list(pool.map(build, range(len(block))))
            list(pool.map(solve, range(len(block) - 1)))
    return flow


class Room:
    """Memory that one thread needs to solve pairs of the pyramid's size: what `_solve` calls `rooms`."""

    def __init__(self, pyramid: Pyramid) -> None:
        height, width = (int(side) for side in pyramid.sizes[0])
        stride = int(line_stride(width))
        state = (height + 2) * STATE_LINES * stride
        sizes = (
            state,
            state,
            height * COEFFICIENT_LINES * stride,
            (height + 2 * BORDER) * (width + 2 * BORDER) * CHANNELS,
            int(scratch_size(height, width)),
            stride,
            12 * stride,
        )
        coarser = np.zeros(2 * height * width, np.float32)
        self.arrays = (*(_aligned(size) for size in sizes), np.zeros(stride, np.int32), coarser)


def _aligned(size: int) -> Floats:
    """Zeros from the beginning of a cache line on, and a vector to spare: loads that straddle lines cost a third."""
    spare = _CACHE_LINE // 4
    room = np.zeros(size + 2 * spare, np.float32)
    start = -room.ctypes.data % _CACHE_LINE // 4
    return room[start : start + size + LANES]


def pair_solver(
    pyramid: Pyramid, parameters: TVL1Parameters
) -> Callable[[Floats, Floats, Room, Floats], tuple[int, int]]:
    """A function of (levels of the first frame, of the second, room, flow to be written) that returns what
    `_solve` does."""
    constants = make_constants(parameters, pyramid)
    numbers = (
        constants.tau,
        constants.bound,
        constants.cubic,
        constants.to_pixels,
        constants.smallest_gradient,
        constants.counts,
        constants.enlarge,
    )
    counts = (
        parameters.rules.repeats_border,
        int(parameters.warps),
        int(parameters.inner_iterations),
        int(parameters.outer_iterations),
        int(parameters.median or 1),
        constants.limits,
    )
    tables = (pyramid.sizes, pyramid.offsets, pyramid.up_index, pyramid.up_fraction)

    def solve(first: Floats, second: Floats, room: Room, flow: Floats) -> tuple[int, int]:
        iterated, filtered = _solve(first, second, *tables, numbers, counts, room.arrays, flow)
        return int(iterated), int(filtered)

    return solve


@kernel
def _solve(first, second, sizes, offsets, index, fraction, numbers, counts, rooms, flow):
    """Solve one pair, levels `first` and `second` -> `flow`, float32 (2, H, W); return the pixels that were
    iterated and those that were median-filtered, on all levels.

    sizes, offsets, index, fraction: of the Pyramid. numbers, counts: of `pair_solver`. rooms: of a Room, in its order.
    """
    tau, bound, cubic, to_pixels, smallest, counts_per_unit, enlarge = numbers
    repeat, warps, inner, outer, median, limits = counts
    here, there, coefficients, interleaved, scratch, weights, taps, addresses, upper = rooms
    iterated = 0
    filtered = 0
    for level in range(len(sizes) - 1, -1, -1):
        height, width = sizes[level]
        begin, end = offsets[level], offsets[level + 1]
        stride = line_stride(width)
        row = STATE_LINES * stride
        here[: (height + 2) * row] = 0
        there[: (height + 2) * row] = 0
        lines = here[row : row + height * row].reshape(height, STATE_LINES, stride)
        # The padding of a line serves the next one as p = 0 left of the image, so it stays 0.
        lines[:, :2, :width] = REST
        if level < len(sizes) - 1:
            coarse_height, coarse_width = sizes[level + 1]
            coarse = upper[: 2 * coarse_height * coarse_width].reshape(
                2, coarse_height, coarse_width
            )
            for component in range(2):
                resize(
                    coarse[component],
                    lines[:, component, :width],
                    index[level],
                    fraction[level],
                    enlarge,
                    REST,
                )
        weights[:width] = counts_per_unit
        weights[width:] = 0
        taps[:] = 0
        interleave(second[begin:end], height, width, repeat, interleaved)
        warping = (cubic, to_pixels, smallest)
        relaxing = (tau, bound, limits[level], inner, outer, median)
        for _ in range(warps):
            frame = first[begin : end + LANES]
            warp(
                frame,
                interleaved,
                here,
                height,
                width,
                stride,
                warping,
                taps,
                addresses,
                coefficients,
            )
            here, there, done, medians = relax(
                coefficients, here, there, height, width, relaxing, weights, scratch
            )
            iterated += done * height * width
            filtered += medians * height * width
        lines = here[row : row + height * row].reshape(height, STATE_LINES, stride)
        coarse = upper[: 2 * height * width].reshape(2, height, width)
        for component in range(2):
            if level:
                coarse[component] = lines[:, component, :width] - REST
            else:
                flow[component] = (lines[:, component, :width] - REST) * to_pixels
    return iterated, filtered
