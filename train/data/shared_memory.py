"""The memory that batches are read into: pinned for a GPU, or shared with the training process.

Shared memory has no name (memfd): a kill leaves nothing in /dev/shm, and a small /dev/shm, as in
containers, is no limit.
"""

import contextlib
import ctypes
import mmap
import os
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SMALLEST = 1 << 16
_SPARE = 4


class Block:
    """A piece of memory that two processes map; it is unmapped when nobody holds it any more.

    CUDA knows it if it is `pinned`, so copies to a GPU need not be waited for.
    """

    def __init__(self, descriptor: int, size: int, *, pin: bool = False) -> None:
        self._memory = mmap.mmap(descriptor, size)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        # A driver that refuses (a limit on locked memory) costs speed and nothing else.
        self.pinned = pin and int(torch.cuda.cudart().cudaHostRegister(self._address, size, 0)) == 0

    def array(self) -> NDArray[np.uint8]:
        """Return its memory, as an object that lives as long as any view of it."""
        return np.frombuffer(self._memory, np.uint8)

    def __del__(self) -> None:
        if getattr(self, "pinned", False):
            torch.cuda.synchronize()  # a copy may still be on its way
            torch.cuda.cudart().cudaHostUnregister(self._address)


def tensor_in(memory: NDArray[np.uint8], shape: Sequence[int], dtype: np.dtype[Any]) -> Tensor:
    """Return a tensor at the beginning of the memory of a block."""
    size = int(np.prod(shape)) * dtype.itemsize
    return torch.from_numpy(memory[:size].view(dtype).reshape(shape))


class SharedBlocks:
    """The blocks of a loader process by number; train/data/loader.py has the protocol."""

    def __init__(self) -> None:
        self._blocks: dict[int, tuple[Block, int]] = {}
        self._free: set[int] = set()
        self._in_hand: dict[int, int] = {}  # address -> number
        self._count = 0
        self._new: list[tuple[int, int, int]] = []
        self._dropped: list[int] = []

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Tensor:
        """Return uninitialised memory in a block that is free, or in a new one."""
        size = max(int(np.prod(shape)) * dtype.itemsize, _SMALLEST)
        sizes = [(self._blocks[number][1], number) for number in self._free]
        fitting = [found for found in sizes if found[0] >= size]
        number = min(fitting)[1] if fitting else self._make(size)
        self._free.discard(number)
        tensor = tensor_in(self._blocks[number][0].array(), shape, dtype)
        self._in_hand[tensor.data_ptr()] = number
        return tensor

    def number_of(self, tensor: Tensor) -> int | None:
        """Return which block a whole tensor of `empty` is, or None for other memory."""
        return self._in_hand.get(tensor.data_ptr()) if tensor.is_contiguous() else None

    def hand_over(self, sent: set[int]) -> tuple[list[tuple[int, int, int]], list[int]]:
        """Keep the blocks that were sent until they come back; the other blocks become free.

        Return (number, descriptor, size) of the blocks that the other process has not heard of, and
        the numbers of those that it may forget.
        """
        self._free.update(set(self._in_hand.values()) - sent)
        self._in_hand.clear()
        news = self._new, self._dropped
        self._new, self._dropped = [], []
        return news

    def take_back(self, numbers: Sequence[int]) -> None:
        """Make blocks free that the other process has done with."""
        self._free.update(numbers)

    def _make(self, size: int) -> int:
        while self._free:  # too small: batches have grown
            self._dropped.append(self._free.pop())
            del self._blocks[self._dropped[-1]]
        descriptor = os.memfd_create("flowcpc-batch", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, size)
        self._count += 1
        self._blocks[self._count] = Block(descriptor, size), size
        self._new.append((self._count, descriptor, size))
        return self._count


_spare: deque[mmap.mmap] = deque(maxlen=_SPARE)  # memory of batches that nobody sees any more


def _own(shape: Sequence[int], dtype: np.dtype[Any]) -> Tensor:
    if torch.cuda.is_available():
        # torch keeps pinned memory and hands it out again once copies from it are done.
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        return torch.empty(*shape, dtype=kind, pin_memory=True)
    # The kernel gives new memory page by page, which takes half as long as the reading. Spare
    # memory that does not fit goes: batches have another size now.
    size = max(int(np.prod(shape)) * dtype.itemsize, _SMALLEST)
    spare = None
    with contextlib.suppress(IndexError):  # another thread may be quicker
        while spare is None:
            found = _spare.popleft()
            spare = found if size <= len(found) <= 2 * size else None
    spare = spare or mmap.mmap(-1, size)
    memory = np.frombuffer(spare, np.uint8)
    weakref.finalize(memory, _spare.append, spare).atexit = False
    return tensor_in(memory, shape, dtype)


_allocate: Callable[[Sequence[int], np.dtype[Any]], Tensor] = _own


def empty(shape: Sequence[int], dtype: np.dtype[Any]) -> Tensor:
    """Return uninitialised memory for a batch, where the process that trains gets at it fastest."""
    return _allocate(shape, dtype)


def allocate_from(blocks: SharedBlocks) -> None:
    """Make `empty` of this process take from `blocks`."""
    global _allocate
    _allocate = blocks.empty
