"""Reads batches ahead of the training loop, in a thread of this process or in loader processes.

A loader process reads the batch of a step into a block of shared memory, and pickles the rest. The
batch's tensor here is that memory, without a copy. Once nothing refers to it, the next request
returns the block for reuse. A batch that is kept costs another block, and never changes.
"""

import contextlib
import functools
import io
import itertools
import multiprocessing
import os
import pickle
import signal
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import connection, reduction
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.base.signals import STOPS, held_back
from flowcpc.train.data.shared_memory import Block, SharedBlocks, allocate_from, tensor_in

Step = TypeVar("Step")
Loaded = TypeVar("Loaded")


class _Request(NamedTuple):
    """What a loader process is asked: a step; and the blocks that nothing refers to any more."""

    step: Any
    given_back: list[int]


class _Reply(NamedTuple):
    """Its answer; the descriptors of the new blocks follow, in their order.

    `pickled` is (True, batch) or (False, error). New blocks are (number, size in bytes).
    """

    pickled: bytes
    new: list[tuple[int, int]]
    dropped: list[int]


@contextlib.contextmanager
def loading(
    read: Callable[[Step], Loaded], steps: Iterable[Step], *, workers: int = 0, ahead: int = 2
) -> Generator[Iterator[Loaded], None, None]:
    """Yield an iterator over `read(step)` for every step, in order, that reads ahead.

    An exception in `read` is raised when the loop takes that batch, and so is OperationError if its
    loader process has ended. Leaving the context ends threads and processes at once. Raises
    ValueError if a number is negative.

    Parameters
    ----------
    read : callable
        A pure function of the step; with `workers` one that can be pickled.
    workers : int
        0: a thread of this process. N: processes of one thread each, started by forkserver; they
        get no signals, and end with this process, however it ends.
    ahead : int
        Batches that are read while the loop has one; never fewer than `workers`.
    """
    for name, value in (("workers", workers), ("ahead", ahead)):
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    answers: Iterator[Callable[[], Loaded]]
    with contextlib.ExitStack() as stack:
        if workers == 0:
            pool = ThreadPoolExecutor(1, thread_name_prefix="loading")
            stack.callback(pool.shutdown, cancel_futures=True)
            answers = (pool.submit(read, step).result for step in steps)
        else:
            turns = itertools.cycle(stack.enter_context(_started(read, workers)))
            answers = (worker.ask(step) for worker, step in zip(turns, steps, strict=False))
        batches = _in_order(answers, max(ahead, workers))
        yield stack.enter_context(contextlib.closing(batches))


def _in_order(answers: Iterable[Callable[[], Loaded]], ahead: int) -> Generator[Loaded, None, None]:
    """Yield what each of `answers` returns; taking one from the iterable asks for its batch."""
    waiting: deque[Callable[[], Loaded]] = deque()
    for answer in answers:
        waiting.append(answer)
        if len(waiting) > ahead:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


@contextlib.contextmanager
def _started(read: Callable[[Any], Any], count: int) -> Generator[list["_Worker"], None, None]:
    context = multiprocessing.get_context("forkserver")
    # Loaded once, not in every process.
    context.set_forkserver_preload(["flowcpc.train.data.batches"])
    workers: list[_Worker] = []
    try:
        with held_back():
            for _ in range(count):
                workers.append(_Worker(context, read))
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.connection.close()


class _Worker:
    """One loader process, seen from the loop: it answers in the order in which it is asked."""

    def __init__(self, context: Any, read: Callable[[Any], Any]) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, read), name="flowcpc loader", daemon=True
        )
        self.process.start()
        theirs.close()
        self._blocks: dict[int, Block] = {}
        self._done: deque[tuple[int, Any]] = deque()

    def ask(self, step: Any) -> Callable[[], Any]:
        """Send a request and return the function that waits for the batch."""
        with contextlib.suppress(ConnectionError):  # said where its batch is asked for
            self.connection.send(_Request(step, self._given_back()))
        return functools.partial(self._answer, step)

    def _answer(self, step: Any) -> Any:
        try:
            connection.wait([self.connection, self.process.sentinel])
            if not self.connection.poll():
                raise EOFError
            reply: _Reply = self.connection.recv()
            for number, size in reply.new:
                descriptor = reduction.recv_handle(self.connection)
                try:
                    self._blocks[number] = Block(descriptor, size, pin=torch.cuda.is_available())
                finally:
                    os.close(descriptor)
        except (EOFError, ConnectionError):
            raise OperationError(self._ended(step)) from None
        for number in reply.dropped:
            del self._blocks[number]
        good, loaded = _Unpickler(reply.pickled, self._memory).load()
        if not good:
            raise loaded
        return loaded

    def _memory(self, number: int) -> NDArray[np.uint8]:
        block = self._blocks[number]
        memory = block.array()
        # The finalizer keeps the block alive as long as its tensors, even if the worker drops it.
        weakref.finalize(memory, self._give_back, number, block).atexit = False
        return memory

    def _give_back(self, number: int, block: Block) -> None:
        event = None
        if block.pinned:
            event = torch.cuda.Event()
            event.record()  # behind the copy of the batch, which may still be on its way
        self._done.append((number, event))

    def _given_back(self) -> list[int]:
        numbers = []
        while self._done and (self._done[0][1] is None or self._done[0][1].query()):
            numbers.append(self._done.popleft()[0])
        return numbers

    def _ended(self, step: Any) -> str:
        self.process.join(5)
        code = self.process.exitcode
        how = f"ended ({code})"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        return (
            f"a loader process (pid {self.process.pid}) {how} before it had read step {step}; "
            "if the machine ran out of memory, take fewer workers or a smaller batch_size"
        )


def _serve(asked: connection.Connection, read: Callable[[Any], Any]) -> None:
    """Answer what is asked until the other end is gone."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # others may have started the forkserver
    torch.set_num_threads(1)
    blocks = SharedBlocks()
    allocate_from(blocks)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            request: _Request = asked.recv()
            blocks.take_back(request.given_back)
            pickled, sent = _answer(read, request.step, blocks)
            new, dropped = blocks.hand_over(sent)
            asked.send(_Reply(pickled, [(number, size) for number, _, size in new], dropped))
            for _, descriptor, _ in new:
                reduction.send_handle(asked, descriptor, None)
                os.close(descriptor)


def _answer(read: Callable[[Any], Any], step: Any, blocks: SharedBlocks) -> tuple[bytes, set[int]]:
    """Return the pickled pair (True, batch) or (False, error), and which blocks go with it."""
    try:
        pickler = _Pickler(blocks)
        pickler.dump((True, read(step)))
    except Exception as error:
        pickler = _Pickler(blocks)
        try:
            pickler.dump((False, error))
            pickle.loads(pickler.file.getvalue())
        except Exception:  # whatever an error holds, its words arrive
            pickler = _Pickler(blocks)
            pickler.dump((False, OperationError(f"{type(error).__name__}: {error}")))
    return pickler.file.getvalue(), pickler.sent


class _Pickler(pickle.Pickler):
    """Pickles all but the tensors that lie in blocks."""

    def __init__(self, blocks: SharedBlocks) -> None:
        self.file = io.BytesIO()
        self.sent: set[int] = set()
        self._blocks = blocks
        super().__init__(self.file, pickle.HIGHEST_PROTOCOL)

    def persistent_id(self, value: Any) -> tuple[int, tuple[int, ...], str] | None:
        number = self._blocks.number_of(value) if isinstance(value, Tensor) else None
        if number is None:
            return None
        self.sent.add(number)
        return number, tuple(value.shape), value.numpy().dtype.str


class _Unpickler(pickle.Unpickler):
    """Makes tensors in blocks; all tensors of a batch in one block share one finalizer."""

    def __init__(self, data: bytes, memory: Callable[[int], NDArray[np.uint8]]) -> None:
        super().__init__(io.BytesIO(data))
        self._memory = functools.cache(memory)

    def persistent_load(self, value: Any) -> Tensor:
        number, shape, dtype = value
        return tensor_in(self._memory(number), shape, np.dtype(dtype))
