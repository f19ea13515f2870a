"""Flow of several videos in one batch: threads that each work on a video share one solver.

A GPU is fast where it has hundreds of pairs at a time, and a video has few. So blocks that wait at the same moment go to the device together, one
behind the other; the pair at each seam belongs to no video and is dropped. While a batch is computed the other threads decode, encode and
write, and queue for the next one.
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


_MOST_FRAMES = 1024
_MOST_VIDEOS = 16


def videos_at_a_time(backend: str, cores: int) -> int:
    """Return how many videos a process works on at a time: one, which has all cores, but on a GPU one for each core, since it would wait for a
    single one to be decoded and written.
    """
    return min(cores, _MOST_VIDEOS) if resolve_backend(backend) == "cuda" else 1


@functools.cache
def shared_solver(parameters: TVL1Parameters) -> "SharedSolver":
    """Return the one that the threads of this process share on its GPU."""
    return SharedSolver(
        functools.partial(compute_flow, parameters=parameters, backend="cuda"), _MOST_FRAMES
    )


class SharedSolver:
    """Computes blocks of frames that threads bring, several of them in a call of `solve`.

    Parameters
    ----------
    solve : callable
        uint8 (T, H, W) -> float32 (T-1, 2, H, W), the flow of each pair by its two frames alone. One call at a time.
    most_frames : int
        Frames of a batch. Fewer than all threads hold together, or the threads would wait for the device all at once, and the device for them.
    """

    def __init__(self, solve: Solver, most_frames: int) -> None:
        if most_frames < 2:
            raise ValueError(f"most_frames={most_frames} must be at least 2, the frames of a pair")
        self._solve = solve
        self._most_frames = most_frames
        self._waiting: deque[tuple[Frames, Future[Flow]]] = deque()
        self._queue = threading.Lock()
        self._device = threading.Lock()

    def compute(self, frames: Frames) -> Flow:
        """Return the flow of a block, uint8 (T, H, W) -> float32 (T-1, 2, H, W); as `solve` would, and with its errors."""
        if len(frames) < 2:
            return self._solve(frames)  # which says why not
        future: Future[Flow] = Future()
        with self._queue:
            self._waiting.append((frames, future))
        # Whoever gets the device computes the oldest blocks, until its own is among them.
        while not future.done():
            with self._device:
                if not future.done():
                    self._compute_oldest()
        return future.result()

    def _compute_oldest(self) -> None:
        with self._queue:
            batch = [self._waiting.popleft()]
            total, size = len(batch[0][0]), batch[0][0].shape[1:]
            while self._waiting and total + len(self._waiting[0][0]) <= self._most_frames:
                if self._waiting[0][0].shape[1:] != size:
                    break
                batch.append(self._waiting.popleft())
                total += len(batch[-1][0])
        blocks = [frames for frames, _ in batch]
        try:
            flow = self._solve(blocks[0] if len(blocks) == 1 else np.concatenate(blocks))
        except BaseException as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for frames, future in batch:  # what one of them brings about is not the others'
                try:
                    future.set_result(self._solve(frames))
                except BaseException as own:
                    future.set_exception(own)
            return
        first = 0
        for frames, future in batch:
            future.set_result(flow[first : first + len(frames) - 1])
            first += len(frames)
