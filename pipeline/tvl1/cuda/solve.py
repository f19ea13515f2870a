"""TV-L1 on CUDA devices: many pairs at a time, on two streams that overlap copies and computation.

All pairs of a batch go through levels and warps together; within a warp every pair iterates until
it has converged, and then leaves the work. The host sends rounds ahead and learns the outcome of
earlier ones, so that the device never waits for it.
"""

import contextlib
import math
import threading
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from flowcpc.pipeline.tvl1.constants import make_constants
from flowcpc.pipeline.tvl1.cuda import control as cuda_control
from flowcpc.pipeline.tvl1.cuda import frames as cuda_frames
from flowcpc.pipeline.tvl1.cuda.arithmetic import SIMULATED
from flowcpc.pipeline.tvl1.cuda.iterate import DEFAULT_TILE, Tile, make_pass
from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
from flowcpc.pipeline.tvl1.pyramid import Pyramid, make_pyramid

Floats = NDArray[np.float32]
# They fill any device several times; with more, fast pairs would wait for slow ones.
_MAX_PAIRS = 512
_MEMORY_SHARE = 0.85
_ROUNDS_AHEAD = 4  # of the host: the queue never runs dry, and few empty rounds end a warp
_STREAMS = 2
_LOCKED_BYTES = 1 << 30  # page-locked host memory for the flow of one batch
# Threads of a block of the simpler kernels; the simulator runs a Python thread for each.
_BLOCK = (4, 2) if SIMULATED else (32, 8)
# Values per pixel of a pair: u and p twice, coefficients, gradients, coarse flow (and the result).
_FLOATS_PER_PIXEL = 2 * 2 + 2 * 4 + 4 + 2 + 2


def device_names() -> list[str]:
    """Return the names of the usable CUDA devices, by index; Numba's simulator is "simulator"."""
    if SIMULATED:
        return ["simulator"]
    # Without numba-cuda, Numba has its own, outdated CUDA target, which fails on these kernels.
    names = []
    with contextlib.suppress(Exception):  # a broken driver raises anything
        if getattr(cuda, "implementation", "") == "NVIDIA" and cuda.is_available():
            names = [device.name for device in cuda.gpus]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def compute_flow(
    frames: NDArray[np.uint8],
    parameters: TVL1Parameters,
    device: int = 0,
    tile: Tile = DEFAULT_TILE,
) -> Floats:
    """Return flow between consecutive frames, uint8 (T, H, W) -> float32 (T-1, 2, H, W) px.

    The result does not depend on the batch, the tile or the memory of CUDA device `device`. Raises
    MemoryError if not even one pair fits it.
    """
    flow = np.empty((len(frames) - 1, 2, *frames.shape[1:]), np.float32)
    with _lock, cuda.gpus[device]:
        batches = _batches(parameters, frames.shape[1:], tile, device, len(flow))
        step = batches[0].capacity
        # After an interrupt some work may still run in them, so they are kept only after success.
        kept = _kept.pop(device)
        parts = [flow[start : start + step] for start in range(0, len(flow), step)]
        batches[0].send(frames[: step + 1])
        for number, part in enumerate(parts):
            other = batches[(number + 1) % len(batches)]
            if number + 1 < len(parts):
                other.send(frames[(number + 1) * step : (number + 2) * step + 1])
            batches[number % len(batches)].solve(len(part))
            if number:
                other.receive(parts[number - 1])
        batches[(len(parts) - 1) % len(batches)].receive(parts[-1])
        _kept[device] = kept
    return flow


# Device memory is kept between calls, because allocating it costs more than a small batch. One call
# at a time uses it.
_lock = threading.Lock()
_kept: dict[int, tuple[object, list["Batch"]]] = {}


def _batches(
    parameters: TVL1Parameters, size: tuple[int, int], tile: Tile, device: int, pairs: int
) -> list["Batch"]:
    """Return one batch that holds all `pairs`, or one per stream, as large as memory allows."""
    key = parameters, size, tile
    kept_key, batches = _kept.get(device, (None, []))
    if kept_key == key and (len(batches) == _STREAMS or batches[0].capacity >= pairs):
        return batches
    del batches
    _kept.pop(device, None)
    pyramid = make_pyramid(*size, parameters)
    capacity = min(pairs, _pairs_that_fit(pyramid))
    while True:
        count = 1 if capacity >= pairs else _STREAMS
        try:
            made = [Batch(parameters, pyramid, tile, capacity) for _ in range(count)]
            _kept[device] = key, made
            return made
        except Exception as error:  # Numba's drivers raise different ones
            if "OUT_OF_MEMORY" not in str(error):
                raise
            if capacity == 1:
                problem = f"CUDA device {device} has too little free memory"
                raise MemoryError(f"{problem} for a pair of {size[0]}x{size[1]}") from error
            capacity = (capacity + 1) // 2


def _pairs_that_fit(pyramid: Pyramid) -> int:
    """Return the pairs of a batch that fit the device's free memory, once for each stream."""
    context = cuda.current_context()
    if not SIMULATED:
        context.deallocations.clear()  # only then is freed memory free
    free = context.get_memory_info()[0]
    pixels, total = int(pyramid.offsets[1]), int(pyramid.offsets[-1])
    bytes_per_pair = 4 * (_FLOATS_PER_PIXEL * pixels + total) + pixels
    limit = min(_MAX_PAIRS, _LOCKED_BYTES // (8 * pixels))
    return max(1, int(min(free * _MEMORY_SHARE / (_STREAMS * bytes_per_pair), limit)))


class Batch:
    """Device memory, page-locked host memory and a stream for up to `capacity` pairs."""

    def __init__(
        self, parameters: TVL1Parameters, pyramid: Pyramid, tile: Tile, pairs: int
    ) -> None:
        self.capacity = pairs
        self._parameters, self._tile = parameters, tile
        self._constants = make_constants(parameters, pyramid)
        self._filters = int(parameters.median != 1)
        self._pairs = 0
        self._sizes = [(height, width) for height, width in pyramid.sizes.tolist()]
        *self._offsets, self._total = pyramid.offsets.tolist()
        height, width = self._sizes[0]
        pixels = pairs * height * width
        self._stream = cuda.stream()
        self._sent = cuda.pinned_array((pairs + 1, height, width), np.uint8)
        self._received = cuda.pinned_array((pairs, 2, height, width), np.float32)
        self._frames = self._array((pairs + 1, height, width), np.uint8)
        self._levels = self._array((pairs + 1) * self._total, np.float32)
        sides = 2 * 2 * pixels, 2 * 4 * pixels
        self._u, self._p = (self._array(side, np.float32) for side in sides)
        self._coefficients = self._array(4 * pixels, np.float32)
        self._gradients = self._array(2 * pixels, np.float32)
        self._flow = self._array((pairs, 2, height, width), np.float32)
        self._coarse = self._flow.reshape(2 * pixels)
        self._control = self._array((cuda_control.FIELDS, pairs), np.int32)
        sums = self._array((pairs, tile.iterations), np.int64)
        before, tickets = self._array(pairs, np.int64), self._array(pairs, np.int32)
        lists = self._array((cuda_control.TURNS, pairs), np.int32)
        self._counts = self._array(cuda_control.TURNS, np.int32)
        self._state = (self._control, sums, before, tickets, lists, self._counts)
        rounds = range(_ROUNDS_AHEAD)
        self._active = [cuda.pinned_array(cuda_control.TURNS, np.int32) for _ in rounds]
        self._events = [cuda.event() for _ in rounds]
        self._down = self._to_device(pyramid.down_index, pyramid.down_fraction)
        self._up = self._to_device(pyramid.up_index, pyramid.up_fraction)

    def _array(self, shape: Any, dtype: Any) -> Any:
        return cuda.device_array(shape, dtype, stream=self._stream)

    def _to_device(self, *tables: NDArray[Any]) -> list[tuple[Any, ...]]:
        """Return the tables on the device, by level."""
        return [
            tuple(cuda.to_device(np.ascontiguousarray(line), stream=self._stream) for line in lines)
            for lines in zip(*tables, strict=True)
        ]

    def send(self, frames: NDArray[np.uint8]) -> None:
        """Start to copy frames in. The flow of the batch before may still be on its way out."""
        self._sent[: len(frames)] = frames
        self._frames[: len(frames)].copy_to_device(self._sent[: len(frames)], stream=self._stream)

    def solve(self, pairs: int) -> None:
        """Compute the frames that were sent, and start to copy their flow out."""
        self._pairs = pairs
        read_frames = cuda_frames.read_frames[self._over(0, pairs + 1)]
        read_frames(self._frames, self._levels, self._sizes[0], self._total)
        for level in range(1, len(self._sizes)):
            shrink = cuda_frames.shrink_level[self._over(level, pairs + 1)]
            offsets = self._offsets[level], self._offsets[level - 1]
            sizes = self._sizes[level], self._sizes[level - 1]
            shrink(self._levels, offsets, *sizes, self._down[level], self._total)
        for level in reversed(range(len(self._sizes))):
            self._solve_level(level)
        self._flow[:pairs].copy_to_host(self._received[:pairs], stream=self._stream)

    def receive(self, flow: Floats) -> None:
        """Wait for the batch and write its flow, (pairs, 2, H, W)."""
        self._stream.synchronize()
        flow[:] = self._received[: len(flow)]

    def _over(self, level: int, depth: int) -> tuple[Any, ...]:
        """Return the launch configuration of a kernel over (x, y) of a level and `depth`."""
        (height, width), (across, down) = self._sizes[level], _BLOCK
        blocks = (math.ceil(width / across), math.ceil(height / down), depth)
        return blocks, (across, down, 1), self._stream

    def _solve_level(self, level: int) -> None:
        offset, total = self._offsets[level], self._total
        size, pairs = self._sizes[level], self._pairs
        constants, parameters, over = self._constants, self._parameters, self._over(level, pairs)
        coarse_size = (*self._sizes, (0, 0))[level + 1]
        begin_level, enlarge = cuda_frames.begin_level[over], constants.enlarge
        begin_level(self._coarse, self._u, self._p, size, coarse_size, self._up[level], enlarge)
        cuda_frames.differentiate[over](self._levels, offset, self._gradients, size, total)
        over_pairs = math.ceil(pairs / math.prod(_BLOCK)), math.prod(_BLOCK), self._stream
        cuda_control.reset_sides[over_pairs](self._control, pairs)
        images = (self._levels, offset, self._gradients, self._u, self._control, self._coefficients)
        frame = (*size, parameters.rules.repeats_border)
        numbers = (constants.cubic, constants.to_pixels, constants.smallest_gradient)
        inner, outer = parameters.inner_iterations, parameters.outer_iterations
        counts = (self._tile.iterations, inner, outer, self._filters)
        for _ in range(parameters.warps):
            cuda_frames.warp[over](*images, frame, total, pairs, numbers)
            cuda_control.begin_warp[over_pairs](self._state, pairs, *counts)
            self._relax(level)
        factor = np.float32(1) if level else constants.to_pixels
        cuda_frames.end_level[over](self._u, self._control, self._coarse, size, pairs, factor)

    def _relax(self, level: int) -> None:
        """Send rounds until all pairs have converged; a round is a pass of every other pair."""
        (height, width), active = self._sizes[level], self._pairs
        inner_width, inner_height = self._tile.inner
        tiles = math.ceil(width / inner_width), math.ceil(height / inner_height)
        block = (self._tile.width, self._tile.rows, 1)
        iterate = make_pass(self._tile)
        images = (self._u, self._p, self._coefficients, self._state)
        size = (height, width, self._pairs, self._filters)
        numbers = (self._constants.tau, self._constants.bound, self._constants.counts)
        inner = self._parameters.inner_iterations
        limits = (int(self._constants.limits[level]), inner)
        # No pair comes to its second median filter before it has done its inner iterations.
        earliest = math.ceil(inner / self._tile.iterations)
        number = 0
        while active:
            turn = number % cuda_control.TURNS
            if self._filters and (number == 0 or number >= earliest):
                median_filter = cuda_frames.median_filter[self._over(level, active)]
                side = self._parameters.median
                median_filter(self._u, self._state, turn, (height, width), self._pairs, side)
            iterate[(*tiles, active), block, self._stream](*images, turn, size, numbers, limits)
            slot = number % _ROUNDS_AHEAD
            self._counts.copy_to_host(self._active[slot], stream=self._stream)
            self._events[slot].record(self._stream)
            number += 1
            past = number - _ROUNDS_AHEAD
            if past >= 0:
                self._events[past % _ROUNDS_AHEAD].synchronize()
                active = int(self._active[past % _ROUNDS_AHEAD][(past + 1) % cuda_control.TURNS])
