"""Flow of several videos in one batch: threads that each process a video share one solver.

A GPU is fast with hundreds of pairs at a time, and a video has few. So blocks that wait at the same
moment go to the device together, one after the other; the pair at each seam belongs to no video and
is dropped. Meanwhile the other threads decode, encode, write and queue for the next batch.
"""

import functools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from flowcpc.pipeline.tvl1.parameters import TVL1Parameters
from flowcpc.pipeline.tvl1.solver import compute_flow, resolve_backend

Frames = NDArray[np.uint8]
Flow = NDArray[np.float32]
Solver = Callable[[Frames], Flow]
_MAX_FRAMES = 1024
_MAX_VIDEOS = 16


def videos_at_a_time(backend: str, cores: int) -> int:
    """Return how many videos a process works on at a time: with a GPU one per core, else one."""
    return min(cores, _MAX_VIDEOS) if resolve_backend(backend) == "cuda" else 1


@functools.cache
def shared_solver(parameters: TVL1Parameters) -> "SharedSolver":
    """Return the solver that the threads of this process share on its GPU."""
    solve = functools.partial(compute_flow, parameters=parameters, backend="cuda")
    return SharedSolver(solve, _MAX_FRAMES)


class SharedSolver:
    """Computes blocks of frames from several threads, with several blocks per call of `solve`.

    `solve`, uint8 (T, H, W) -> float32 (T-1, 2, H, W), depends on each pair alone, and runs in one
    thread at a time. A batch has at most `max_frames` frames, which should be fewer than all
    threads bring: else they would all wait for the device at once, and then the device for them.
    """

    def __init__(self, solve: Solver, max_frames: int) -> None:
        self._solve, self._max_frames = solve, max_frames
        self._waiting: deque[tuple[Frames, Future[Flow]]] = deque()
        self._queue, self._device = threading.Lock(), threading.Lock()

    def compute(self, frames: Frames) -> Flow:
        """Return what `solve` returns for this block, or raise its error."""
        if len(frames) < 2:
            return self._solve(frames)  # raises its error
        future: Future[Flow] = Future()
        with self._queue:
            self._waiting.append((frames, future))
        # The thread that gets the device computes the oldest blocks until its own is done.
        while not future.done():
            with self._device:
                if not future.done():
                    self._compute_oldest()
        return future.result()

    def _compute_oldest(self) -> None:
        with self._queue:
            batch = [self._waiting.popleft()]
            left, size = self._max_frames - len(batch[0][0]), batch[0][0].shape[1:]
            while self._waiting and len(self._waiting[0][0]) <= left:
                if self._waiting[0][0].shape[1:] != size:
                    break
                batch.append(self._waiting.popleft())
                left -= len(batch[-1][0])
        blocks = [frames for frames, _ in batch]
        try:
            flow = self._solve(blocks[0] if len(blocks) == 1 else np.concatenate(blocks))
        except BaseException as error:
            for frames, future in batch:  # again one by one: the error may belong to one block
                try:
                    if len(batch) == 1:
                        raise error
                    future.set_result(self._solve(frames))
                except BaseException as error_of_block:
                    future.set_exception(error_of_block)
            return
        first = 0
        for frames, future in batch:
            future.set_result(flow[first : first + len(frames) - 1])
            first += len(frames)
