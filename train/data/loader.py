"""Reads batches ahead of the training loop, in a thread of this process or in loader processes.

A loader process reads the batch of a step into a block of shared memory, and pickles the rest. The
batch's tensor here is that memory, without a copy. Once nothing refers to it, the next request
returns the block for reuse. A batch that is kept costs another block, and never changes.
"""

import contextlib
import functools
import io
import multiprocessing
import os
import pickle
import signal
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import connection, reduction
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowcpc.stores.base.errors import OperationError
from flowcpc.stores.base.signals import STOPS, held_back
from flowcpc.train.data.shared_memory import Block, SharedBlocks, allocate_from, tensor_in

Step = TypeVar("Step")
Loaded = TypeVar("Loaded")
Ticket = TypeVar("Ticket")


@contextlib.contextmanager
def loading(
    read: Callable[[Step], Loaded], steps: Iterable[Step], *, workers: int = 0, ahead: int = 2
) -> Generator[Iterator[Loaded], None, None]:
    """Yield an iterator over `read(step)` for every step, in order, that reads ahead.

    An exception in `read` is raised when the loop takes that batch. Leaving the context ends
    threads and processes at once.

    Parameters
    ----------
    read : callable
        A pure function of the step; with `workers` one that can be pickled.
    steps : iterable
    workers : int
        0: a thread of this process. N: processes of one thread each, started by forkserver; they
        get no signals, and end with this process, however it ends.
    ahead : int
        Batches that are read while the loop has one; never fewer than `workers`.

    Raises
    ------
    ValueError
        A number is negative.
    OperationError
        A loader process has ended, where its batch is asked for.
    """
    for name, value in (("workers", workers), ("ahead", ahead)):
        if value < 0:
            raise ValueError(f"{name}={value} is negative; take 0 or more")
    with contextlib.ExitStack() as stack:
        if workers == 0:
            pool = ThreadPoolExecutor(1, thread_name_prefix="loading")
            stack.callback(pool.shutdown, cancel_futures=True)
            batches = _in_order(
                lambda step: pool.submit(read, step), lambda future: future.result(), steps, ahead
            )
        else:
            processes = stack.enter_context(_started(read, workers))
            batches = _in_order(
                processes.ask, lambda worker: worker.answer(), steps, max(ahead, workers)
            )
        yield stack.enter_context(contextlib.closing(batches))


def _in_order(
    ask: Callable[[Step], Ticket],
    answer: Callable[[Ticket], Loaded],
    steps: Iterable[Step],
    ahead: int,
) -> Generator[Loaded, None, None]:
    waiting: deque[Ticket] = deque()
    for step in steps:
        waiting.append(ask(step))
        if len(waiting) > ahead:
            yield answer(waiting.popleft())
    while waiting:
        yield answer(waiting.popleft())


class _Processes:
    """Loader processes that are asked in turn."""

    def __init__(self, workers: list["_Worker"]) -> None:
        self._workers = deque(workers)

    def ask(self, step: Any) -> "_Worker":
        worker = self._workers[0]
        self._workers.rotate(-1)
        worker.ask(step)
        return worker


@contextlib.contextmanager
def _started(read: Callable[[Any], Any], count: int) -> Generator[_Processes, None, None]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["flowcpc.train.data.batches"]
    )  # loaded once, not in every process
    workers: list[_Worker] = []
    try:
        with held_back():
            for _ in range(count):
                workers.append(_Worker(context, read))
        yield _Processes(workers)
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
        self._steps: deque[Any] = deque()

    def ask(self, step: Any) -> None:
        self._steps.append(step)
        with contextlib.suppress(ConnectionError):  # said where its batch is asked for
            self.connection.send((step, self._given_back()))

    def answer(self) -> Any:
        step = self._steps.popleft()
        try:
            connection.wait([self.connection, self.process.sentinel])
            if not self.connection.poll():
                raise EOFError
            data, new, dropped = self.connection.recv()
            for number, size in new:
                descriptor = reduction.recv_handle(self.connection)
                try:
                    self._blocks[number] = Block(descriptor, size, pin=torch.cuda.is_available())
                finally:
                    os.close(descriptor)
        except (EOFError, ConnectionError):
            raise OperationError(self._ended(step)) from None
        for number in dropped:
            del self._blocks[number]
        good, loaded = _Unpickler(data, self._memory).load()
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
        how = (
            f"was killed by {signal.Signals(-code).name}"
            if code is not None and code < 0
            else f"ended ({code})"
        )
        return (
            f"a loader process (pid {self.process.pid}) {how} before it had read step {step}; "
            "if the machine ran out of memory, take fewer workers or a smaller batch_size"
        )


def _serve(asked: connection.Connection, read: Callable[[Any], Any]) -> None:
    """Answer what is asked until the other end is gone."""
    signal.pthread_sigmask(
        signal.SIG_BLOCK, STOPS
    )  # the forkserver may have been started by others
    torch.set_num_threads(1)
    blocks = SharedBlocks()
    allocate_from(blocks)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            step, given_back = asked.recv()
            blocks.take_back(given_back)
            data, sent = _answer(read, step, blocks)
            blocks.hand_over(sent)
            asked.send((data, [(number, size) for number, _, size in blocks.new], blocks.dropped))
            for _, descriptor, _ in blocks.new:
                reduction.send_handle(asked, descriptor, None)
                os.close(descriptor)
            blocks.new, blocks.dropped = [], []


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
