"""TV-L1 on CUDA devices: many pairs at a time, on two streams, so that one batch's copies hide behind another's
computation.

All pairs of a batch go through levels and warps together; within a warp every pair iterates until it has converged by itself and then leaves
the work. The host sends rounds ahead and learns from their past, so the device never waits for it.
"""

import math
import threading
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from flowcpc.pipeline.tvl1.constants import Constants, make_constants
from flowcpc.pipeline.tvl1.cuda import control as cuda_control
from flowcpc.pipeline.tvl1.cuda import frames as cuda_frames
from flowcpc.pipeline.tvl1.cuda.arithmetic import SIMULATED
from flowcpc.pipeline.tvl1.cuda.iterate import DEFAULT_TILE, Tile, make_pass
from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
from flowcpc.pipeline.tvl1.pyramid import Pyramid, make_pyramid

Floats = NDArray[np.float32]
# Enough pairs to fill any device several times over; more would only let the fast ones wait for the slow ones.
_MOST_PAIRS = 512
_MEMORY_SHARE = 0.85
# Rounds that the host is ahead of the device: the queue never runs dry, and at most so many empty rounds end a warp.
_ROUNDS_AHEAD = 4
_STREAMS = 2
# Page-locked memory that a room's flow may take on the host.
_LOCKED_BYTES = 1 << 30
# Threads of a block of the simpler kernels; the simulator runs a Python thread for each.
_BLOCK = (4, 2) if SIMULATED else (32, 8)
# Values a pixel of a pair: u and p twice, coefficients, gradients, coarse flow (and the result).
_FLOATS_PER_PIXEL = 2 * 2 + 2 * 4 + 4 + 2 + 2


def device_names() -> list[str]:
    """Return the names of the CUDA devices that can be used, by index; empty where there is none or the driver fails.

    Numba's simulator counts as one device.
    """
    if SIMULATED:
        return ["simulator"]
    try:
        # Numba's own CUDA target, without the package numba-cuda, is no longer kept up and fails on these kernels.
        if getattr(cuda, "implementation", "") != "NVIDIA" or not cuda.is_available():
            return []
        names = [device.name for device in cuda.gpus]
    except Exception:  # a broken driver raises whatever it likes, and the processor is there
        return []
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def compute_flow(
    frames: NDArray[np.uint8],
    parameters: TVL1Parameters,
    device: int = 0,
    tile: Tile = DEFAULT_TILE,
) -> Floats:
    """Return flow between consecutive frames, uint8 (T, H, W) -> float32 (T-1, 2, H, W) px, on CUDA device `device`.

    The result does not depend on the batch, the tile or the device's memory. Raises MemoryError when not even one pair
    fits the device.
    """
    flow = np.empty((len(frames) - 1, 2, *frames.shape[1:]), np.float32)
    with _lock, cuda.gpus[device]:
        rooms = _rooms(parameters, frames.shape[1:], tile, device, len(flow))
        step = rooms[0].capacity
        # After an interrupt nobody knows what still runs in these rooms: they are kept only when all went well.
        kept = _kept.pop(device)
        parts = [slice(start, min(start + step, len(flow))) for start in range(0, len(flow), step)]
        rooms[0].send(frames[: parts[0].stop + 1])
        for number, part in enumerate(parts):
            other = rooms[(number + 1) % len(rooms)]
            if number + 1 < len(parts):
                following = parts[number + 1]
                other.send(frames[following.start : following.stop + 1])
            rooms[number % len(rooms)].solve(part.stop - part.start)
            if number:
                other.receive(flow[parts[number - 1]])
        rooms[(len(parts) - 1) % len(rooms)].receive(flow[parts[-1]])
        _kept[device] = kept
    return flow


# Device memory is kept from call to call, since allocating it costs more than a small batch; one call at a time uses it.
_lock = threading.Lock()
_kept: dict[int, tuple[object, list["_Room"]]] = {}


def _rooms(
    parameters: TVL1Parameters, size: tuple[int, int], tile: Tile, device: int, pairs: int
) -> list["_Room"]:
    """One room that holds all `pairs`, or else a room for each stream, as large as the memory allows."""
    wanted = parameters, size, tile
    made_for, rooms = _kept.get(device, (None, []))
    if made_for == wanted and (len(rooms) == _STREAMS or rooms[0].capacity >= pairs):
        return rooms
    del rooms
    _kept.pop(device, None)
    pyramid = make_pyramid(*size, parameters)
    capacity = min(pairs, _pairs_that_fit(pyramid))
    while True:
        try:
            made = [
                _Room(parameters, pyramid, tile, capacity)
                for _ in range(1 if capacity >= pairs else _STREAMS)
            ]
        except Exception as error:  # Numba's drivers raise different ones
            if "OUT_OF_MEMORY" not in str(error):
                raise
            if capacity == 1:
                raise MemoryError(
                    f"CUDA device {device} has too little free memory for a pair of {size[0]}x{size[1]}"
                ) from error
            capacity = (capacity + 1) // 2
        else:
            _kept[device] = wanted, made
            return made


def _pairs_that_fit(pyramid: Pyramid) -> int:
    """Pairs of a batch that the device's free memory holds, once for each stream."""
    context = cuda.current_context()
    if not SIMULATED:
        context.deallocations.clear()  # what was freed is free only then
    free = context.get_memory_info()[0]
    pixels = int(pyramid.offsets[1])
    each = 4 * (_FLOATS_PER_PIXEL * pixels + int(pyramid.offsets[-1])) + pixels
    most = min(_MOST_PAIRS, _LOCKED_BYTES // (8 * pixels))
    return max(1, int(min(free * _MEMORY_SHARE / (_STREAMS * each), most)))


class _Room:
    """Device memory, page-locked host memory and a stream for batches of up to `pairs` pairs: its `capacity`."""

    def __init__(
        self, parameters: TVL1Parameters, pyramid: Pyramid, tile: Tile, pairs: int
    ) -> None:
        self.capacity = pairs
        self._parameters = parameters
        self._pyramid = pyramid
        self._constants: Constants = make_constants(parameters, pyramid)
        self._tile = tile
        self._pairs = 0
        height, width = (int(side) for side in pyramid.sizes[0])
        pixels = height * width
        self._stream = cuda.stream()
        self._sent = cuda.pinned_array((pairs + 1, height, width), np.uint8)
        self._received = cuda.pinned_array((pairs, 2, height, width), np.float32)
        self._frames = self._array((pairs + 1, height, width), np.uint8)
        self._levels = self._array((pairs + 1) * int(pyramid.offsets[-1]), np.float32)
        self._u = self._array(2 * pairs * 2 * pixels, np.float32)
        self._p = self._array(2 * pairs * 4 * pixels, np.float32)
        self._coefficients = self._array(pairs * 4 * pixels, np.float32)
        self._gradients = self._array(pairs * 2 * pixels, np.float32)
        self._flow = self._array((pairs, 2, height, width), np.float32)
        self._coarse = self._flow.reshape(pairs * 2 * pixels)
        self._control = self._array((cuda_control.FIELDS, pairs), np.int32)
        self._sums = self._array((pairs, tile.iterations), np.int64)
        self._before = self._array(pairs, np.int64)
        self._tickets = self._array(pairs, np.int32)
        self._lists = self._array((cuda_control.TURNS, pairs), np.int32)
        self._counts = self._array(cuda_control.TURNS, np.int32)
        self._active = [
            cuda.pinned_array(cuda_control.TURNS, np.int32) for _ in range(_ROUNDS_AHEAD)
        ]
        self._events = [cuda.event() for _ in range(_ROUNDS_AHEAD)]
        self._tables = [
            tuple(
                cuda.to_device(np.ascontiguousarray(table[level]), stream=self._stream)
                for table in tables
            )
            for tables in (
                (pyramid.down_index, pyramid.down_fraction),
                (pyramid.up_index, pyramid.up_fraction),
            )
            for level in range(pyramid.levels)
        ]

    def _array(self, shape: Any, dtype: Any) -> Any:
        return cuda.device_array(shape, dtype, stream=self._stream)

    def send(self, frames: NDArray[np.uint8]) -> None:
        """Start copying a batch in. The flow of the one before, which is computed, may still be on its way out."""
        self._sent[: len(frames)] = frames
        self._frames[: len(frames)].copy_to_device(self._sent[: len(frames)], stream=self._stream)

    def solve(self, pairs: int) -> None:
        """Compute the batch that was sent, and start copying its flow out."""
        self._pairs = pairs
        self._build_levels(pairs + 1)
        for level in range(self._pyramid.levels - 1, -1, -1):
            self._solve_level(level)
        self._flow[: self._pairs].copy_to_host(self._received[: self._pairs], stream=self._stream)

    def receive(self, flow: Floats) -> None:
        """Wait for the batch and write its flow, (pairs, 2, H, W)."""
        self._stream.synchronize()
        flow[:] = self._received[: len(flow)]

    def _over(self, level: int, depth: int) -> tuple[Any, ...]:
        """Launch configuration of a kernel over (x, y) of a level and `depth`."""
        height, width = self._pyramid.sizes[level].tolist()
        across, down = _BLOCK
        return (
            (math.ceil(width / across), math.ceil(height / down), depth),
            (across, down, 1),
            self._stream,
        )

    def _build_levels(self, frames: int) -> None:
        sizes = self._pyramid.sizes.tolist()
        offsets = self._pyramid.offsets.tolist()
        total = offsets[-1]
        cuda_frames.read_frames[self._over(0, frames)](self._frames, self._levels, *sizes[0], total)
        for level in range(1, len(sizes)):
            cuda_frames.shrink_level[self._over(level, frames)](
                self._levels,
                offsets[level - 1],
                offsets[level],
                (*sizes[level], *sizes[level - 1]),
                *self._tables[level],
                total,
            )

    def _solve_level(self, level: int) -> None:
        height, width = self._pyramid.sizes[level].tolist()
        offset, total = int(self._pyramid.offsets[level]), int(self._pyramid.offsets[-1])
        constants = self._constants
        pairs = self._pairs
        over = self._over(level, pairs)
        last = level == self._pyramid.levels - 1
        coarse = (0, 0) if last else self._pyramid.sizes[level + 1].tolist()
        tables = self._tables[self._pyramid.levels + level]
        cuda_frames.begin_level[over](
            self._coarse,
            self._u,
            self._p,
            (height, width, *coarse),
            *tables,
            constants.enlarge,
            pairs,
        )
        cuda_frames.differentiate[over](self._levels, offset, self._gradients, height, width, total)
        threads = math.prod(_BLOCK)
        over_pairs = math.ceil(pairs / threads), threads, self._stream
        cuda_control.reset_sides[over_pairs](self._control, pairs)
        numbers = (
            constants.cubic,
            constants.to_pixels,
            constants.smallest_gradient,
            self._parameters.rules.repeats_border,
        )
        for _ in range(self._parameters.warps):
            cuda_frames.warp[over](
                self._levels,
                offset,
                self._gradients,
                self._u,
                self._control,
                self._coefficients,
                height,
                width,
                total,
                pairs,
                numbers,
            )
            cuda_control.begin_warp[over_pairs](
                self._control,
                self._sums,
                self._before,
                self._tickets,
                self._lists,
                self._counts,
                pairs,
                self._tile.iterations,
                self._parameters.inner_iterations,
                self._parameters.outer_iterations,
                int(self._filters),
            )
            self._relax(level, height, width)
        factor = np.float32(1) if level else constants.to_pixels
        cuda_frames.end_level[over](
            self._u, self._control, self._coarse, height, width, pairs, factor
        )

    @property
    def _filters(self) -> bool:
        return self._parameters.median != 1

    def _relax(self, level: int, height: int, width: int) -> None:
        """Send rounds until all pairs have converged; a round is a pass of every pair that has not."""
        inner_width, inner_height = self._tile.inner
        tiles = math.ceil(width / inner_width), math.ceil(height / inner_height)
        block = (self._tile.width, self._tile.rows, 1)
        iterate = make_pass(self._tile)
        state = (self._control, self._sums, self._before, self._tickets, self._lists, self._counts)
        numbers = (self._constants.tau, self._constants.bound, self._constants.counts)
        limits = (int(self._constants.limits[level]), self._parameters.inner_iterations)
        # No pair comes to its second median filter before it has done its inner iterations.
        earliest = math.ceil(self._parameters.inner_iterations / self._tile.iterations)
        active = self._pairs
        number = 0
        while active:
            turn = number % cuda_control.TURNS
            if self._filters and (number == 0 or number >= earliest):
                cuda_frames.median_filter[self._over(level, active)](
                    self._u,
                    self._control,
                    self._lists,
                    self._counts,
                    turn,
                    height,
                    width,
                    self._pairs,
                    self._parameters.median,
                )
            iterate[(*tiles, active), block, self._stream](
                self._u,
                self._p,
                self._coefficients,
                state,
                turn,
                (height, width, self._pairs, int(self._filters)),
                numbers,
                limits,
            )
            slot = number % _ROUNDS_AHEAD
            self._counts.copy_to_host(self._active[slot], stream=self._stream)
            self._events[slot].record(self._stream)
            number += 1
            if number >= _ROUNDS_AHEAD:
                past = number - _ROUNDS_AHEAD
                self._events[past % _ROUNDS_AHEAD].synchronize()
                active = int(self._active[past % _ROUNDS_AHEAD][(past + 1) % cuda_control.TURNS])
