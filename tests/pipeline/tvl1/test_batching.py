import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcpc.pipeline.tvl1.batching import SharedSolver
from flowcpc.pipeline.tvl1.solver import compute_flow


def differences(frames: np.ndarray) -> np.ndarray:
    """A solver that is quick, and right for each pair by its two frames alone."""
    later, earlier = frames[1:].astype(np.float32), frames[:-1].astype(np.float32)
    return np.stack([later - earlier, later * 3 + earlier], axis=1)


def blocks_of(lengths: list[int], height: int = 4, width: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (length, height, width), dtype=np.uint8) for length in lengths]


class Counted:
    """Counts the frames of each call, and checks that one thread calls at a time."""

    def __init__(self) -> None:
        self.frames: list[int] = []
        self.together = threading.Lock()

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        assert self.together.acquire(blocking=False)
        try:
            self.frames.append(len(frames))
            return differences(frames)
        finally:
            self.together.release()


@settings(max_examples=30)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=40), st.integers(1, 8), st.integers(2, 30))
def test_every_thread_gets_its_own_flow(lengths: list[int], threads: int, max_frames: int) -> None:
    blocks = blocks_of(lengths)
    solve = Counted()
    shared = SharedSolver(solve, max_frames)
    with ThreadPoolExecutor(threads) as pool:
        for block, flow in zip(blocks, pool.map(shared.compute, blocks), strict=True):
            np.testing.assert_array_equal(flow, differences(block))
    assert sum(solve.frames) == sum(lengths)
    assert max(solve.frames) <= max(max_frames, *lengths)


def test_blocks_that_wait_are_computed_together() -> None:
    """While the first block is on the device, the others queue, and go as one batch."""
    inside, go_on = threading.Event(), threading.Event()
    calls = []

    def solve(frames: np.ndarray) -> np.ndarray:
        calls.append(len(frames))
        if len(calls) == 1:
            inside.set()
            assert go_on.wait(30)
        return differences(frames)

    shared = SharedSolver(solve, 100)
    blocks = blocks_of([3, 4, 5, 6])
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(shared.compute, blocks[0])
        assert inside.wait(30)
        others = [pool.submit(shared.compute, block) for block in blocks[1:]]
        while len(shared._waiting) < 3:
            pass
        go_on.set()
        for future, block in zip([first, *others], blocks, strict=True):
            np.testing.assert_array_equal(future.result(30), differences(block))
    assert calls == [3, 15]


def test_blocks_of_two_sizes_are_computed_apart() -> None:
    small, large = blocks_of([4, 4])[0], blocks_of([5], 6, 7)[0]
    shared = SharedSolver(differences, 100)
    with ThreadPoolExecutor(2) as pool:
        for block, flow in zip(
            [small, large] * 10, pool.map(shared.compute, [small, large] * 10), strict=True
        ):
            np.testing.assert_array_equal(flow, differences(block))


def test_an_error_reaches_everyone_in_the_batch_and_nobody_else() -> None:
    def solve(frames: np.ndarray) -> np.ndarray:
        if (frames == 0).all(axis=(1, 2)).any():
            raise MemoryError("too little")
        return differences(frames)

    shared = SharedSolver(solve, 2)
    good, bad = blocks_of([3])[0] | 1, np.zeros((3, 4, 5), np.uint8)
    with pytest.raises(MemoryError, match="too little"):
        shared.compute(bad)
    np.testing.assert_array_equal(shared.compute(good), differences(good))


def test_what_one_block_of_a_batch_brings_about_is_not_the_others() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def solve(frames: np.ndarray) -> np.ndarray:
        if not inside.is_set():
            inside.set()
            assert go_on.wait(30)
        if (frames == 0).all(axis=(1, 2)).any():
            raise MemoryError("too little")
        return differences(frames)

    shared = SharedSolver(solve, 100)
    blocks = [block | 1 for block in blocks_of([3, 4, 5])]
    blocks.insert(2, np.zeros((3, 4, 5), np.uint8))
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(shared.compute, blocks[0])]
        assert inside.wait(30)
        futures += [pool.submit(shared.compute, block) for block in blocks[1:]]
        while len(shared._waiting) < 3:
            pass
        go_on.set()
        with pytest.raises(MemoryError, match="too little"):
            futures.pop(2).result(30)
        for future, block in zip(futures, [*blocks[:2], blocks[3]], strict=True):
            np.testing.assert_array_equal(future.result(30), differences(block))


def test_the_solver_s_own_words_for_what_is_no_pair() -> None:
    shared = SharedSolver(compute_flow, 100)
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        shared.compute(np.zeros((1, 20, 20), np.uint8))


def test_a_batch_of_real_flow_is_the_flow_of_each() -> None:
    blocks = blocks_of([3, 4], 24, 32)
    shared = SharedSolver(lambda frames: compute_flow(frames, backend="cpu", threads=1), 100)
    with ThreadPoolExecutor(2) as pool:
        for block, flow in zip(blocks, pool.map(shared.compute, blocks), strict=True):
            np.testing.assert_array_equal(flow, compute_flow(block, backend="cpu", threads=1))
