"""TV-L1 on the processor: a compiled function solves a pair, and threads share the pairs."""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any

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
_BLOCK_BYTES = 64 << 20  # of pyramids at a time; more would cost memory and gain nothing
_CACHE_LINE = 64


def compute_flow(frames: NDArray[np.uint8], parameters: TVL1Parameters, threads: int) -> Floats:
    """Return flow between consecutive frames, uint8 (T, H, W) -> float32 (T-1, 2, H, W) px."""
    pyramid = make_pyramid(*frames.shape[1:], parameters)
    solve_pair = pair_solver(pyramid, parameters)
    tables = pyramid.sizes, pyramid.offsets, pyramid.down_index, pyramid.down_fraction
    flow = np.empty((len(frames) - 1, 2, *frames.shape[1:]), np.float32)
    threads = min(threads, len(flow))
    free_buffers = [make_buffers(pyramid) for _ in range(threads)]
    total = int(pyramid.offsets[-1])
    step = max(threads, _BLOCK_BYTES // (4 * total))

    def solve(first: Floats, second: Floats, out: Floats) -> None:
        buffers = free_buffers.pop()
        solve_pair(first, second, buffers, out)
        free_buffers.append(buffers)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(flow), step):
            block = frames[start : start + step + 1]
            # Whole vectors may be read past the end.
            levels = np.zeros((len(block), total + LANES), np.float32)
            list(pool.map(lambda frame, out: build_levels(frame, *tables, out), block, levels))
            list(pool.map(solve, levels, levels[1:], flow[start : start + step]))
    return flow


def make_buffers(pyramid: Pyramid) -> tuple[NDArray[Any], ...]:
    """Return the memory in which one thread solves pairs, in the order that `_solve` names it."""
    height, width = pyramid.sizes[0].tolist()
    stride = line_stride(width)
    state, coefficients = ((height + 2) * STATE_LINES * stride, height * COEFFICIENT_LINES * stride)
    interleaved = (height + 2 * BORDER) * (width + 2 * BORDER) * CHANNELS
    sizes = (state, state, coefficients, interleaved, scratch_size(height, width))
    lines = map(_aligned, (*sizes, stride, 12 * stride))
    return (*lines, np.zeros(stride, np.int32), np.zeros(2 * height * width, np.float32))


def _aligned(size: int) -> Floats:
    """Return zeros, with a vector to spare, from the start of a cache line on: loads are faster."""
    spare = _CACHE_LINE // 4
    array = np.zeros(size + 2 * spare, np.float32)
    start = -array.ctypes.data % _CACHE_LINE // 4
    return array[start : start + size + LANES]


def pair_solver(pyramid: Pyramid, parameters: TVL1Parameters) -> Callable[..., tuple[int, int]]:
    """Return a function (levels of the first frame, of the second, buffers, flow to be written).

    It returns the pixels that were iterated and those that were median-filtered, on all levels.
    """
    c, rules = make_constants(parameters, pyramid), parameters.rules
    numbers = (c.tau, c.bound, c.cubic, c.to_pixels, c.smallest_gradient, c.counts, c.enlarge)
    iterations = (parameters.warps, parameters.inner_iterations, parameters.outer_iterations)
    settings = (rules.repeats_border, *iterations, parameters.median, c.limits)
    tables = (pyramid.sizes, pyramid.offsets, pyramid.up_index, pyramid.up_fraction)
    return functools.partial(_solve, tables, numbers, settings)


@kernel
def _solve(tables, numbers, settings, first, second, buffers, flow):
    """Solve one pair, levels `first` and `second` -> `flow`, float32 (2, H, W)."""
    sizes, offsets, index, fraction = tables
    tau, bound, cubic, to_pixels, smallest, counts_per_unit, enlarge = numbers
    repeat, warps, inner, outer, median, limits = settings
    here, there, coefficients, interleaved, scratch, weights, taps, addresses, upper = buffers
    iterated = filtered = 0
    for level in range(len(sizes) - 1, -1, -1):
        height, width = size = sizes[level, 0], sizes[level, 1]
        begin, end = offsets[level], offsets[level + 1]
        stride = line_stride(width)
        row = STATE_LINES * stride
        here[: (height + 2) * row] = there[: (height + 2) * row] = 0
        lines = here[row : row + height * row].reshape(height, STATE_LINES, stride)
        # The padding of a line serves the next one as p = 0 left of the image, so it stays 0.
        lines[:, :2, :width] = REST
        if level < len(sizes) - 1:
            h, w = sizes[level + 1]
            coarse = upper[: 2 * h * w].reshape(2, h, w)
            for component in range(2):
                finer = lines[:, component, :width]
                resize(coarse[component], finer, index[level], fraction[level], enlarge, REST)
        weights[:width], weights[width:], taps[:] = counts_per_unit, 0, 0
        interleave(second[begin:end], size, repeat, interleaved)
        warping = (cubic, to_pixels, smallest)
        relaxing = (tau, bound, limits[level], inner, outer, median)
        frame = first[begin : end + LANES]
        for _ in range(warps):
            warp(frame, interleaved, here, size, warping, (taps, addresses), coefficients)
            states = relax(coefficients, here, there, size, relaxing, weights, scratch)
            here, there, done, medians = states
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
